# Changes between outputs: each copy as it was then.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=2,mod_dl_src:0e:00:00:00:00:01,3,mod_vlan_vid:77,4"
ovs-ofctl add-flow br0 "in_port=2,ip,actions=1,mod_nw_dst:1.1.1.1,3,mod_nw_dst:2.2.2.2,4,local"
ovs-ofctl add-flow br0 "in_port=3,actions=4,4,1"
