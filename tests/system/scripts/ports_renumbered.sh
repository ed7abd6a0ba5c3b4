# Ports taken off and added again, with other numbers.
ovs-vsctl del-port p1 -- del-port p2
ovs-vsctl add-port br0 p1 -- set interface p1 ofport_request=12
ovs-vsctl add-port br0 p2 -- set interface p2 ofport_request=11
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=12,actions=11,1
ovs-ofctl add-flow br0 in_port=11,actions=12,2
