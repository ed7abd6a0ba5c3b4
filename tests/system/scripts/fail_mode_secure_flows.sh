# Secure without a controller: what ovs-ofctl adds is all there is.
ovs-vsctl set-fail-mode br0 secure
ovs-ofctl add-flow br0 in_port=1,actions=2
ovs-ofctl add-flow br0 in_port=2,actions=1
