# Push and pop change places of addresses.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "actions=push:NXM_OF_ETH_SRC[],push:NXM_OF_ETH_DST[],pop:NXM_OF_ETH_SRC[],pop:NXM_OF_ETH_DST[],in_port"
