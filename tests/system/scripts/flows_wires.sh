# Ports wired to each other, two by two, by name.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=p1,actions=output:p2
ovs-ofctl add-flow br0 in_port=p2,actions=output:p1
ovs-ofctl add-flow br0 in_port=3,actions=4
ovs-ofctl add-flow br0 in_port=4,actions=3
