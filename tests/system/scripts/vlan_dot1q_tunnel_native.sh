# A customer's port beside a trunk whose native VLAN is the customer's.
# may differ (qinq 88a8 10 20): of three tags Open vSwitch may lose the innermost.
ovs-vsctl set port p1 vlan_mode=dot1q-tunnel tag=10
ovs-vsctl set port p2 vlan_mode=native-untagged tag=10
ovs-vsctl set port p3 vlan_mode=native-tagged tag=10
