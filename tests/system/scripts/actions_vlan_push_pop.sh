# Tags pushed, popped, both, and two of them.
# differs (qinq 88a8 10 20, qinq 10 20, vlan 10, vlan 10 broadcast, vlan 10 arp, vlan 10 priority 5, vlan 20, vlan 20 ipv6, vlan 30 broadcast, priority tag): Open vSwitch knows two tags, and takes the innermost off when it pushes a third.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,vlan_tci=0/0x1000,actions=push_vlan:0x8100,set_field:4126->vlan_vid,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,vlan_tci=0x1000/0x1000,actions=pop_vlan,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=push_vlan:0x88a8,set_field:4196->vlan_vid,set_field:6->vlan_pcp,output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=3,dl_vlan=10,actions=pop_vlan,output:4,push_vlan:0x8100,set_field:4116->vlan_vid,output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=4,dl_vlan=10,actions=set_field:4116->vlan_vid,output:3"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=LOCAL,actions=push_vlan:0x8100,push_vlan:0x8100,set_field:4097->vlan_vid,output:1"
