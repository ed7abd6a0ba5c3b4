# VLAN ids, priorities, none, any.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=5,dl_vlan=10,dl_vlan_pcp=5,actions=4
ovs-ofctl add-flow br0 priority=4,dl_vlan=10,actions=2
ovs-ofctl add-flow br0 priority=3,vlan_tci=0x1000/0x1000,actions=3
ovs-ofctl add-flow br0 priority=2,dl_vlan=0xffff,actions=1
ovs-ofctl add-flow br0 priority=1,actions=local
