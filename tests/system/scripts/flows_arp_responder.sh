# A flow that answers ARP requests.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "arp,arp_op=1,actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],mod_dl_src:0e:00:00:00:00:01,load:2->NXM_OF_ARP_OP[],move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],load:0x0e0000000001->NXM_NX_ARP_SHA[],load:0x0a0000fe->NXM_OF_ARP_SPA[],in_port"
