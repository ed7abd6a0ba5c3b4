# ICMP types and codes, over IPv4 and IPv6.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 icmp,icmp_type=8,actions=2
ovs-ofctl add-flow br0 icmp,icmp_type=3,icmp_code=1,actions=3
ovs-ofctl add-flow br0 icmp6,icmp_type=128,icmp_code=0,actions=4
ovs-ofctl add-flow br0 icmp6,icmp_type=135,nd_target=fd00::2,actions=1
ovs-ofctl add-flow br0 icmp6,icmp_type=135,nd_sll=02:00:00:00:00:03,actions=local
