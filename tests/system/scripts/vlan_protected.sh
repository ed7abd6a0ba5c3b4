# Protected ports exchange nothing, by NORMAL and by flows.
# warm up: 1
ovs-vsctl set port p1 protected=true -- set port p2 protected=true
ovs-ofctl add-flow br0 "in_port=1,udp,tp_src=68,actions=2,3"
ovs-ofctl add-flow br0 "in_port=2,arp,actions=all"
