# Groups modified and deleted, with the flows that used them; chains of groups.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=all,bucket=output:2"
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=2,type=all,bucket=group:1,bucket=output:4"
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=3,type=all,bucket=output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,actions=group:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=group:3"
ovs-ofctl -O OpenFlow13 mod-group br0 "group_id=1,type=all,bucket=output:3"
ovs-ofctl -O OpenFlow13 del-groups br0 group_id=3
