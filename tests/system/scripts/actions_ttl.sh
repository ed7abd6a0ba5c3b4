# dec_ttl: packets whose time is over go no further; mod_nw_ttl.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,ip,actions=dec_ttl,2
ovs-ofctl add-flow br0 in_port=2,ipv6,actions=dec_ttl,1
ovs-ofctl add-flow br0 in_port=3,ip,actions=4,dec_ttl,1
ovs-ofctl add-flow br0 in_port=4,ip,actions=mod_nw_ttl:9,3
