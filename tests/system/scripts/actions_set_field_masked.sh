# set_field under masks.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "ip,in_port=1,actions=set_field:172.16.0.0/12->ip_src,set_field:0e:00:00:00:00:00/ff:00:00:00:00:00->eth_src,output:2"
ovs-ofctl add-flow br0 "ipv6,in_port=2,actions=set_field:fdaa::/16->ipv6_dst,output:3"
ovs-ofctl add-flow br0 "udp,in_port=3,actions=set_field:0x8000/0xc000->udp_src,output:4"
ovs-ofctl add-flow br0 "in_port=4,actions=set_field:0x100000000/0xfff00000000->xreg0,output:1"
