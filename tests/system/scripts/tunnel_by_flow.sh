# Far end and key by flow, what came by which key, and the outer DSCP.
. "$(dirname "$0")/underlay"
ovs-vsctl add-port br0 tun -- set interface tun type=vxlan options:remote_ip=flow options:key=flow options:tos=inherit ofport_request=9
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=set_field:10.1.0.2->tun_dst,set_field:1234->tun_id,output:9"
ovs-ofctl add-flow br0 "in_port=2,ip,actions=set_field:10.1.0.2->tun_dst,set_tunnel:77,output:9,output:1"
ovs-ofctl add-flow br0 "in_port=9,tun_id=7,actions=output:1"
ovs-ofctl add-flow br0 "in_port=9,tun_src=10.1.0.2,tun_id=8,actions=output:2"
