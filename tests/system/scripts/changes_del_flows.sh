# Flows deleted loosely and strictly.
ovs-ofctl add-flow br0 priority=5,udp,actions=drop
ovs-ofctl add-flow br0 priority=6,udp,in_port=1,actions=2
ovs-ofctl add-flow br0 priority=7,tcp,actions=drop
ovs-ofctl add-flow br0 priority=8,arp,actions=4
ovs-ofctl --strict del-flows br0 priority=6,udp
ovs-ofctl --strict del-flows br0 priority=5,udp
ovs-ofctl del-flows br0 tcp
ovs-ofctl del-flows br0 out_port=4
