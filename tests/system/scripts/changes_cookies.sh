# Flows deleted and changed by cookie.
ovs-ofctl add-flow br0 cookie=0x11,priority=5,udp,actions=2
ovs-ofctl add-flow br0 cookie=0x12,priority=5,tcp,actions=3
ovs-ofctl add-flow br0 cookie=0x21,priority=5,arp,actions=4
ovs-ofctl mod-flows br0 cookie=0x20/0xf0,actions=1
ovs-ofctl del-flows br0 cookie=0x11/-1
