# Two subnets and a router made of flows.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "table=0,priority=10,ip,nw_dst=10.0.0.0/30,actions=dec_ttl,goto_table:1"
ovs-ofctl add-flow br0 "table=0,priority=5,ip,actions=dec_ttl,mod_dl_src:0e:00:00:00:00:fe,mod_dl_dst:0e:00:00:00:00:fd,4"
ovs-ofctl add-flow br0 "table=0,priority=0,actions=normal"
ovs-ofctl add-flow br0 "table=1,ip,nw_dst=10.0.0.1,actions=mod_dl_src:0e:00:00:00:00:fe,mod_dl_dst:02:00:00:00:00:01,1"
ovs-ofctl add-flow br0 "table=1,ip,nw_dst=10.0.0.2,actions=mod_dl_src:0e:00:00:00:00:fe,mod_dl_dst:02:00:00:00:00:02,2"
