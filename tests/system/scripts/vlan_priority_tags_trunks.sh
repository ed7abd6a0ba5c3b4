# Priority tags on ports that send untagged frames of a trunk's VLANs, and of VLAN 0.
ovs-vsctl set port p1 other_config:priority-tags=always
ovs-vsctl set port p2 tag=10 vlan_mode=native-untagged other_config:priority-tags=if-nonzero
ovs-vsctl set port p3 tag=10 vlan_mode=native-untagged other_config:priority-tags=always
