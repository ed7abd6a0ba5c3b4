# Integration and provider bridge, VLANs translated by flows on the way.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-vsctl del-port p4
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev fail_mode=secure
ovs-vsctl add-port br1 p4 -- set interface p4 ofport_request=4
ovs-vsctl add-port br0 to1 -- set interface to1 type=patch options:peer=to0 ofport_request=10 \
       -- add-port br1 to0 -- set interface to0 type=patch options:peer=to1 ofport_request=11
ovs-vsctl set port p1 tag=1 -- set port p2 tag=2
ovs-ofctl add-flow br1 priority=4,in_port=11,dl_vlan=1,actions=mod_vlan_vid:10,normal
ovs-ofctl add-flow br1 priority=4,in_port=11,dl_vlan=2,actions=strip_vlan,normal
ovs-ofctl add-flow br1 priority=2,in_port=11,actions=drop
ovs-ofctl add-flow br1 priority=0,actions=normal
ovs-ofctl add-flow br0 priority=3,in_port=10,dl_vlan=10,actions=mod_vlan_vid:1,normal
ovs-ofctl add-flow br0 priority=3,in_port=10,vlan_tci=0,actions=mod_vlan_vid:2,normal
