# An action set, done at the end of the pipeline, and cleared.
# differs (qinq 88a8 10 20): Open vSwitch knows two tags, and takes the innermost off when it pushes a third.
# differs (vlan 10 priority 5, priority tag): a pushed tag has the priority of the one below (OpenFlow 1.3, 5.12), in Open vSwitch 0.
ovs-vsctl set bridge br0 protocols=OpenFlow13
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=1,actions=write_actions(output:2,set_field:0e:00:00:00:00:01->eth_src),goto_table:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=2,actions=write_actions(output:2),goto_table:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=3,actions=write_actions(push_vlan:0x8100,set_field:4107->vlan_vid,output:4)"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,udp,actions=write_actions(output:3)"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,tcp,actions=clear_actions"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=2,ip,actions=output:4,write_actions(output:1)"
