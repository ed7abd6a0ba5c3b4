# A vxlan tunnel whose far end is behind p4, both ways.
. "$(dirname "$0")/underlay"
ovs-vsctl add-port br0 tun -- set interface tun type=vxlan options:remote_ip=10.1.0.2 options:key=7 ofport_request=9
