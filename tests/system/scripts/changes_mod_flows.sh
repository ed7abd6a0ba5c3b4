# Flows modified loosely and strictly; what is not there is added.
ovs-ofctl add-flow br0 priority=5,udp,in_port=1,cookie=7,actions=drop
ovs-ofctl add-flow br0 priority=6,udp,in_port=2,actions=drop
ovs-ofctl mod-flows br0 udp,actions=4
ovs-ofctl --strict mod-flows br0 priority=6,udp,in_port=2,actions=3
ovs-ofctl mod-flows br0 priority=9,tcp,in_port=3,actions=1
