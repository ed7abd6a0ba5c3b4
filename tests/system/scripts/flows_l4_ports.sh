# TCP, UDP and SCTP ports, ranges by masks, and TCP flags.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=5,tcp,tp_dst=80,actions=2
ovs-ofctl add-flow br0 priority=5,udp,tp_src=1000/0xfffc,actions=3
ovs-ofctl add-flow br0 priority=5,udp,tp_src=1004,tp_dst=53,actions=1
ovs-ofctl add-flow br0 priority=5,sctp,tp_dst=3001,actions=4
ovs-ofctl add-flow br0 priority=4,tcp,tcp_flags=+ack-syn,actions=local
ovs-ofctl add-flow br0 priority=5,tcp6,tp_dst=80,actions=4
