# A MAC table made of flows: what is learned from one port's packets leads back to it.
# warm up: 1
# pause: 0.1
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "table=0,actions=learn(table=1,priority=10,NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15]),resubmit(,1),resubmit(,2)"
ovs-ofctl add-flow br0 "table=1,priority=0,actions=load:0->NXM_NX_REG0[]"
ovs-ofctl add-flow br0 "table=2,priority=10,reg0=0,actions=flood"
ovs-ofctl add-flow br0 "table=2,priority=5,actions=output:NXM_NX_REG0[0..15]"
