# Four tables under OpenFlow 1.3: admission, VLAN, access list, output.
ovs-vsctl set bridge br0 protocols=OpenFlow13 fail_mode=secure
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,priority=10,dl_src=01:00:00:00:00:00/01:00:00:00:00:00,actions=drop"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,priority=0,actions=goto_table:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,priority=10,vlan_tci=0x1000/0x1000,actions=pop_vlan,goto_table:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,priority=0,actions=goto_table:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=2,priority=10,tcp,tp_dst=80,actions=drop"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=2,priority=0,actions=goto_table:3"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=3,priority=0,actions=normal"
