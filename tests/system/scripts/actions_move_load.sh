# Fields moved and loaded, part of them too; output to a register.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=load:2->NXM_NX_REG0[0..15],output:NXM_NX_REG0[0..15]"
ovs-ofctl add-flow br0 "in_port=2,ip,actions=move:NXM_OF_IP_SRC[]->NXM_NX_REG1[],move:NXM_OF_IP_DST[]->NXM_OF_IP_SRC[],move:NXM_NX_REG1[]->NXM_OF_IP_DST[],1"
ovs-ofctl add-flow br0 "in_port=3,tcp,actions=move:NXM_OF_TCP_SRC[0..7]->NXM_OF_TCP_DST[8..15],4"
ovs-ofctl add-flow br0 "in_port=3,udp,actions=load:0xab->NXM_OF_UDP_DST[4..11],4"
ovs-ofctl add-flow br0 "in_port=4,actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],load:0xe->NXM_OF_ETH_SRC[40..47],in_port"
