# A group of all buckets, with changes in each.
# differs (qinq 88a8 10 20): Open vSwitch knows two tags, and takes the innermost off when it pushes a third.
# differs (vlan 10 priority 5, priority tag): a pushed tag has the priority of the one below (OpenFlow 1.3, 5.12), in Open vSwitch 0.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=all,bucket=output:2,bucket=set_field:0e:00:00:00:00:03->eth_dst,output:3,bucket=push_vlan:0x8100,set_field:4196->vlan_vid,output:4"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,actions=group:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=group:1,output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=3,actions=write_actions(group:1,output:1)"
