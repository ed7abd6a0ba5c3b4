# Addresses translated both ways: checksums of all protocols follow.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "ip,nw_src=10.0.0.1,actions=mod_nw_src:203.0.113.7,mod_dl_dst:0e:00:00:00:00:01,4"
ovs-ofctl add-flow br0 "ip,nw_src=10.0.0.2,actions=mod_nw_dst:203.0.113.255,1"
ovs-ofctl add-flow br0 "ipv6,ipv6_src=fd00::3,actions=set_field:2001:db8::9->ipv6_dst,2"
ovs-ofctl add-flow br0 "icmp6,ipv6_src=fd00::4,icmp_type=135,actions=set_field:fd00::99->nd_target,set_field:0e:00:00:00:00:09->nd_sll,3"
