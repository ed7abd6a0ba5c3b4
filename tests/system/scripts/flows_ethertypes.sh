# Ethernet types: MPLS, LLDP, 802.3 and one for experiments.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 dl_type=0x8847,actions=2
ovs-ofctl add-flow br0 dl_type=0x88cc,actions=3
ovs-ofctl add-flow br0 dl_type=0x05ff,actions=4
ovs-ofctl add-flow br0 dl_type=0x88b5,actions=1
ovs-ofctl add-flow br0 dl_type=0x8100,actions=local
ovs-ofctl add-flow br0 dl_type=0x88a8,actions=local
