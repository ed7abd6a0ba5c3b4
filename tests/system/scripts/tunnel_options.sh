# Outer TTL and TOS that are set, a checksum, fragments allowed; VLANs are carried.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
. "$(dirname "$0")/underlay"
ovs-vsctl add-port br0 tun -- set interface tun type=gre options:remote_ip=10.1.0.2 options:key=7 options:tos=0x20 \
    options:ttl=9 options:csum=true options:df_default=false
ovs-vsctl set port p1 tag=10
ovs-vsctl set port tun tag=10
