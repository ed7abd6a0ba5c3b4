# Native VLAN, untagged on the way out, beside trunk and access ports.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
# warm up: 1
ovs-vsctl set port p1 tag=10 vlan_mode=native-untagged
ovs-vsctl set port p2 tag=20 vlan_mode=native-untagged trunks=10
ovs-vsctl set port p3 tag=10 vlan_mode=access
