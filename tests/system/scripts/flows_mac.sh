# Ethernet addresses, whole and under masks.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=3,dl_dst=02:00:00:00:00:02,actions=2
ovs-ofctl add-flow br0 priority=2,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=flood
ovs-ofctl add-flow br0 priority=2,dl_src=02:00:00:00:00:01/00:00:00:00:00:01,actions=4
ovs-ofctl add-flow br0 priority=1,dl_dst=02:00:00:00:00:00/ff:ff:ff:ff:ff:00,actions=1,local
