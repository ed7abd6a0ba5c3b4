# Priority tags on access ports, if they need them and always.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl set port p1 tag=10 other_config:priority-tags=if-nonzero
ovs-vsctl set port p2 tag=10 other_config:priority-tags=always
ovs-vsctl set port p4 tag=10
