# The customer's tag behind one of type 0x8100, to the bridge's own port too.
# may differ (qinq 88a8 10 20): of three tags Open vSwitch may lose the innermost.
ovs-vsctl set port p1 vlan_mode=dot1q-tunnel tag=10 other_config:qinq-ethtype=802.1q
ovs-vsctl set port p2 vlan_mode=dot1q-tunnel tag=10 other_config:qinq-ethtype=802.1ad
ovs-vsctl set port p3 trunks=10
