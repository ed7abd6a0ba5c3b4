# Some of a customer's VLANs, untagged frames among them at one port and not at the other.
# may differ (qinq 88a8 10 20): of three tags Open vSwitch may lose the innermost.
ovs-vsctl set port p1 vlan_mode=dot1q-tunnel tag=30 cvlans=0,10
ovs-vsctl set port p2 vlan_mode=dot1q-tunnel tag=30 cvlans=10,20
ovs-vsctl set port p4 vlan_mode=dot1q-tunnel tag=30
