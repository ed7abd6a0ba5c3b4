# VLANs as OpenFlow 1.3 matches them, masks included.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,dl_vlan=20,actions=4
ovs-ofctl -O OpenFlow13 add-flow br0 priority=4,vlan_vid=0x1000/0x1000,vlan_pcp=3,actions=3
ovs-ofctl -O OpenFlow13 add-flow br0 priority=3,vlan_vid=0x1008/0x1008,actions=2
ovs-ofctl -O OpenFlow13 add-flow br0 priority=2,vlan_tci=0x0000/0x1fff,actions=1
