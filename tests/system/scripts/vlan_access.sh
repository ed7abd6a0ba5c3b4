# Two access VLANs and a trunk that carries them.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
# warm up: 1
ovs-vsctl set port p1 tag=10
ovs-vsctl set port p2 tag=10
ovs-vsctl set port p3 tag=20
