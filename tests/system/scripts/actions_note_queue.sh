# Actions that do nothing to frames: note, set_queue, pop_queue; drop.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,actions=note:00.11.22.33.44.55.66,2
ovs-ofctl add-flow br0 in_port=2,actions=set_queue:3,1,pop_queue
ovs-ofctl add-flow br0 in_port=3,actions=enqueue:4:1
ovs-ofctl add-flow br0 in_port=4,actions=drop
