# A port that takes no part in floods.
ovs-ofctl mod-port br0 p2 no-flood
ovs-ofctl add-flow br0 in_port=p1,actions=flood
ovs-ofctl add-flow br0 in_port=p3,actions=all
