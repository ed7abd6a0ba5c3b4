# A port that is brought down by OpenFlow is out of floods.
ovs-ofctl mod-port br0 p3 down
ovs-ofctl add-flow br0 in_port=2,actions=1,3,4
