# A geneve tunnel whose far end is behind p4, both ways.
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev other_config:hwaddr=06:00:00:00:00:aa
ovs-ofctl add-flow br1 in_port=LOCAL,icmp,actions=drop
ovs-ofctl add-flow br1 in_port=LOCAL,arp,actions=drop
ovs-vsctl del-port p4 -- add-port br1 p4
$IN ip addr add 10.1.0.1/24 dev br1
$IN ip link set br1 up
$APPCTL tnl/neigh/set br1 10.1.0.2 06:00:00:00:00:bb
ovs-vsctl add-port br0 tun -- set interface tun type=geneve options:remote_ip=10.1.0.2 options:key=7 ofport_request=9
