# Who was asked may answer: a flow learned for the way back.
# pause: 0.1
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "table=0,priority=5,in_port=1,udp,actions=learn(table=1,cookie=0x99,priority=7,dl_type=0x800,nw_proto=17,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],output:NXM_OF_IN_PORT[]),flood"
ovs-ofctl add-flow br0 "table=0,priority=1,actions=resubmit(,1)"
ovs-ofctl add-flow br0 "table=1,priority=1,actions=drop"
