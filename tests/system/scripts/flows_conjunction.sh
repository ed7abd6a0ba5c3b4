# Conjunctive matches: sources times ports.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "priority=10,conj_id=7,ip,actions=4"
ovs-ofctl add-flow br0 "priority=10,ip,nw_src=10.0.0.1,actions=conjunction(7,1/2)"
ovs-ofctl add-flow br0 "priority=10,ip,nw_src=10.0.0.2,actions=conjunction(7,1/2)"
ovs-ofctl add-flow br0 "priority=10,udp,tp_dst=53,actions=conjunction(7,2/2)"
ovs-ofctl add-flow br0 "priority=10,tcp,tp_dst=80,actions=conjunction(7,2/2)"
ovs-ofctl add-flow br0 "priority=1,actions=local"
