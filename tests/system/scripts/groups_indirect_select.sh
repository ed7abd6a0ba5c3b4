# Indirect groups, a select group of one bucket, and one whose other bucket has weight 0.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=indirect,bucket=dec_ttl,output:2"
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=2,type=select,bucket=weight:5,output:3"
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=3,type=select,bucket=weight:0,output:1,bucket=weight:10,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,ip,actions=group:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=group:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=4,actions=group:3"
