# A fake bridge is an access VLAN of its parent.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl del-port br0 p1 -- del-port br0 p2
ovs-vsctl add-br vlan10 br0 10
ovs-vsctl add-port vlan10 p1 -- set interface p1 ofport_request=1
ovs-vsctl add-port vlan10 p2 -- set interface p2 ofport_request=2
