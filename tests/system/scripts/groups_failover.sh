# Fast failover: the first bucket that is alive; watching a port that is down, and another group.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 mod-port br0 p2 down
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=1,type=ff,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3"
ovs-ofctl -O OpenFlow13 add-group br0 "group_id=2,type=ff,bucket=watch_port:2,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,actions=group:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=4,actions=group:2,output:1"
