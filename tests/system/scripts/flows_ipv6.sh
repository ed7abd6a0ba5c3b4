# IPv6 addresses, prefixes and labels.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=3,ipv6,ipv6_src=fd00::2,actions=3
ovs-ofctl add-flow br0 priority=2,ipv6,ipv6_dst=fd00::/64,actions=4
ovs-ofctl add-flow br0 priority=1,ipv6,ipv6_dst=ff00::/8,actions=flood
ovs-ofctl add-flow br0 priority=4,ipv6,ipv6_label=0x5/0xfffff,actions=drop
