# VLANs in which nothing is learned.
# warm up: 1
ovs-vsctl set bridge br0 flood_vlans=10,0
ovs-vsctl set port p2 tag=20
