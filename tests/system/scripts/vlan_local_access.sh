# The bridge's own port as an access port.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
# warm up: 1
ovs-vsctl set port br0 tag=10
ovs-vsctl set port p1 tag=10
