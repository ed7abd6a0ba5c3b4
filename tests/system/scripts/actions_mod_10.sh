# OpenFlow 1.0's rewriting actions.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 in_port=1,actions=mod_dl_src:0e:00:00:00:00:01,mod_dl_dst:0e:00:00:00:00:02,2
ovs-ofctl add-flow br0 in_port=2,ip,actions=mod_nw_src:10.9.9.1,mod_nw_dst:10.9.9.2,mod_nw_tos:32,1
ovs-ofctl add-flow br0 in_port=3,tcp,actions=mod_tp_src:7,mod_tp_dst:8,4
ovs-ofctl add-flow br0 in_port=3,udp,actions=mod_tp_src:7,mod_tp_dst:8,4
ovs-ofctl add-flow br0 in_port=4,actions=mod_vlan_vid:30,mod_vlan_pcp:4,3
