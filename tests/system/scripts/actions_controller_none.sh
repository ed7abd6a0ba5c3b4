# To a controller that is not there, and on to a port.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=controller,2"
ovs-ofctl add-flow br0 "in_port=2,actions=controller(max_len=128,reason=no_match,id=0)"
