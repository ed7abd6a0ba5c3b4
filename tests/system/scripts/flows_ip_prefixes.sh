# IPv4 prefixes and masks.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 priority=4,ip,nw_src=10.0.0.2/31,actions=4
ovs-ofctl add-flow br0 priority=3,ip,nw_dst=10.0.0.0/255.0.0.253,actions=1
ovs-ofctl add-flow br0 priority=2,ip,nw_dst=192.168.0.0/16,actions=2
ovs-ofctl add-flow br0 priority=1,ip,nw_dst=224.0.0.0/4,actions=flood
