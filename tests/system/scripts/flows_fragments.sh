# Fragments, first and later ones.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=5,ip,ip_frag=first,actions=1
ovs-ofctl add-flow br0 priority=5,ip,ip_frag=later,actions=2
ovs-ofctl add-flow br0 priority=5,ipv6,ip_frag=yes,actions=3
ovs-ofctl add-flow br0 priority=4,udp,tp_dst=53,actions=4
ovs-ofctl add-flow br0 priority=4,udp,tp_dst=0,actions=local
