# Far end and key by flow, what came by which key, and the outer DSCP.
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev other_config:hwaddr=06:00:00:00:00:aa
ovs-ofctl add-flow br1 in_port=LOCAL,icmp,actions=drop
ovs-ofctl add-flow br1 in_port=LOCAL,arp,actions=drop
ovs-vsctl del-port p4 -- add-port br1 p4
$IN ip addr add 10.1.0.1/24 dev br1
$IN ip link set br1 up
$APPCTL tnl/neigh/set br1 10.1.0.2 06:00:00:00:00:bb
ovs-vsctl add-port br0 tun -- set interface tun type=vxlan options:remote_ip=flow options:key=flow options:tos=inherit ofport_request=9
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=set_field:10.1.0.2->tun_dst,set_field:1234->tun_id,output:9"
ovs-ofctl add-flow br0 "in_port=2,ip,actions=set_field:10.1.0.2->tun_dst,set_tunnel:77,output:9,output:1"
ovs-ofctl add-flow br0 "in_port=9,tun_id=7,actions=output:1"
ovs-ofctl add-flow br0 "in_port=9,tun_src=10.1.0.2,tun_id=8,actions=output:2"
