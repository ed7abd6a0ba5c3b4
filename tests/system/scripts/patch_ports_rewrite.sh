# What the other bridge does to a packet is its own: this one goes on with what it had.
ovs-vsctl del-port p4
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev
ovs-vsctl add-port br1 p4 -- set interface p4 ofport_request=4
ovs-vsctl add-port br0 to1 -- set interface to1 type=patch options:peer=to0 ofport_request=10 \
       -- add-port br1 to0 -- set interface to0 type=patch options:peer=to1 ofport_request=11
ovs-ofctl add-flow br0 "in_port=1,actions=load:7->NXM_NX_REG0[],10,2"
ovs-ofctl add-flow br0 "in_port=3,actions=mod_dl_src:0e:00:00:00:00:33,10,2"
ovs-ofctl add-flow br1 "in_port=11,priority=9,reg0=7,actions=drop"
ovs-ofctl add-flow br1 "in_port=11,actions=mod_dl_dst:0e:00:00:00:00:44,mod_vlan_vid:44,4"
