# ARP operations and addresses.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=3,arp,arp_op=2,actions=2
ovs-ofctl add-flow br0 priority=2,arp,arp_spa=10.0.0.2,arp_tpa=10.0.0.0/24,actions=3
ovs-ofctl add-flow br0 priority=2,arp,arp_sha=02:00:00:00:00:04,actions=1
ovs-ofctl add-flow br0 priority=1,arp,dl_vlan=10,actions=4
