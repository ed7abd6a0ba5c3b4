# A VXLAN tunnel to a host that no route leads to: nothing comes out, the rest goes on.
ovs-vsctl add-port br0 vx -- set interface vx type=vxlan options:remote_ip=198.51.100.9 options:key=7 ofport_request=20
ovs-ofctl add-flow br0 in_port=1,actions=20,2
