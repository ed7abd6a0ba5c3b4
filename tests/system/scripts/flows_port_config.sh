# Ports that do not forward, and do not receive.
ovs-ofctl mod-port br0 p2 no-forward
ovs-ofctl mod-port br0 p3 no-receive
