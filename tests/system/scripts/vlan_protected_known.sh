# A known address behind a protected port, from another one; the third is not.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
# warm up: 1
ovs-vsctl set port p1 protected=true -- set port p2 protected=true -- set port p4 protected=true tag=10
