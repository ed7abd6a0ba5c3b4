# strip_vlan, and VLAN translation by mod_vlan_vid.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,actions=strip_vlan,2
ovs-ofctl add-flow br0 in_port=2,dl_vlan=10,actions=mod_vlan_vid:20,1
ovs-ofctl add-flow br0 in_port=2,dl_vlan=20,actions=mod_vlan_vid:10,1
ovs-ofctl add-flow br0 in_port=3,actions=mod_vlan_pcp:7,4
ovs-ofctl add-flow br0 in_port=4,actions=3,mod_vlan_vid:99,2,strip_vlan,1
