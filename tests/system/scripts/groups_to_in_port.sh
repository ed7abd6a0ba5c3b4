# A group with the port that a packet came in at among its buckets.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=all,bucket=output:1,bucket=output:2,bucket=in_port"
ovs-ofctl -O OpenFlow13 add-flow br0 "actions=group:1"
