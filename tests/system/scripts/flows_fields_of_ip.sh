# TOS, ECN, TTL, protocol numbers.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,ip,nw_ttl=1,actions=4
ovs-ofctl -O OpenFlow13 add-flow br0 priority=4,ip,nw_tos=184,actions=3
ovs-ofctl -O OpenFlow13 add-flow br0 priority=4,ipv6,ip_dscp=46,actions=2
ovs-ofctl -O OpenFlow13 add-flow br0 priority=3,ip,nw_proto=47,actions=1
ovs-ofctl -O OpenFlow13 add-flow br0 priority=2,ip,nw_ecn=1,actions=local
