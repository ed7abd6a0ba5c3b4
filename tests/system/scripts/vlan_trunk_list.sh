# Trunks that carry some VLANs only.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl set port p1 trunks=10,20
ovs-vsctl set port p2 trunks=20 -- set port p3 trunks=10
ovs-vsctl set port p4 tag=10
