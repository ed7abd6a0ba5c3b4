# The highest priority wins, whatever was added first.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=10,ip,actions=2
ovs-ofctl add-flow br0 priority=20,ip,nw_dst=10.0.0.0/24,actions=3
ovs-ofctl add-flow br0 priority=30,udp,actions=4
ovs-ofctl add-flow br0 priority=15,tcp,actions=1
ovs-ofctl add-flow br0 priority=0,actions=normal
