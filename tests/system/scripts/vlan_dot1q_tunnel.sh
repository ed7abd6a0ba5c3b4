# Two customers' ports of one service VLAN, a trunk to the provider, and one of another VLAN.
# may differ (qinq 88a8 10 20): of three tags Open vSwitch may lose the innermost.
ovs-vsctl set port p1 vlan_mode=dot1q-tunnel tag=10
ovs-vsctl set port p2 vlan_mode=dot1q-tunnel tag=10
ovs-vsctl set port p4 vlan_mode=dot1q-tunnel tag=20
