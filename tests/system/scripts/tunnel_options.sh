# Outer TTL and TOS that are set, a checksum, fragments allowed; VLANs are carried.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev other_config:hwaddr=06:00:00:00:00:aa
ovs-ofctl add-flow br1 in_port=LOCAL,icmp,actions=drop
ovs-ofctl add-flow br1 in_port=LOCAL,arp,actions=drop
ovs-vsctl del-port p4 -- add-port br1 p4
$IN ip addr add 10.1.0.1/24 dev br1
$IN ip link set br1 up
$APPCTL tnl/neigh/set br1 10.1.0.2 06:00:00:00:00:bb
ovs-vsctl add-port br0 tun -- set interface tun type=gre options:remote_ip=10.1.0.2 options:key=7 options:tos=0x20 \
    options:ttl=9 options:csum=true options:df_default=false
ovs-vsctl set port p1 tag=10
ovs-vsctl set port tun tag=10
