# set_field of all layers.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 "ip,in_port=1,actions=set_field:0e:00:00:00:00:07->eth_dst,set_field:10.1.2.3->ip_dst,set_field:10->ip_dscp,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "tcp,in_port=2,actions=set_field:99->tcp_dst,set_field:10.1.2.3->ip_src,output:3"
ovs-ofctl -O OpenFlow13 add-flow br0 "udp,in_port=2,actions=set_field:99->udp_src,set_field:98->udp_dst,output:3"
ovs-ofctl -O OpenFlow13 add-flow br0 "arp,in_port=2,actions=set_field:1.2.3.4->arp_spa,set_field:2->arp_op,output:3"
ovs-ofctl -O OpenFlow13 add-flow br0 "udp6,in_port=3,actions=set_field:fd99::1->ipv6_src,set_field:fd99::2->ipv6_dst,set_field:7->udp_dst,output:4"
ovs-ofctl -O OpenFlow13 add-flow br0 "icmp,in_port=4,actions=set_field:0->icmp_type,set_field:10.3.3.3->ip_dst,output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "icmp6,in_port=4,actions=set_field:129->icmpv6_type,set_field:fd99::3->ipv6_src,output:1"
