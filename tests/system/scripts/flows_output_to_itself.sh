# Output to the port that a packet came in at goes nowhere, unless it is IN_PORT.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,actions=1,2
ovs-ofctl add-flow br0 in_port=2,actions=in_port
ovs-ofctl add-flow br0 in_port=3,actions=load:3-\>NXM_OF_IN_PORT[],output:NXM_OF_IN_PORT[],4
ovs-ofctl add-flow br0 in_port=4,actions=load:0-\>NXM_OF_IN_PORT[],output:4
