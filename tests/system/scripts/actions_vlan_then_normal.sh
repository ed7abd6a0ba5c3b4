# A tag set by a flow decides the VLAN of NORMAL.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl set port p2 tag=10 -- set port p3 tag=20
ovs-ofctl add-flow br0 in_port=1,vlan_tci=0,actions=mod_vlan_vid:10,normal
ovs-ofctl add-flow br0 in_port=4,actions=strip_vlan,normal
