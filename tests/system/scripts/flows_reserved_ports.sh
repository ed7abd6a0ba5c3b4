# FLOOD, ALL, IN_PORT, LOCAL and NORMAL as outputs.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,actions=flood
ovs-ofctl add-flow br0 in_port=2,actions=all
ovs-ofctl add-flow br0 in_port=3,actions=in_port,local
ovs-ofctl add-flow br0 in_port=4,actions=normal
ovs-ofctl add-flow br0 in_port=LOCAL,actions=1,2,3,4
