# What happens in a clone stays there; nothing happens after exit.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "in_port=1,actions=clone(mod_dl_dst:0e:00:00:00:00:01,mod_vlan_vid:5,2),3"
ovs-ofctl add-flow br0 "in_port=2,actions=resubmit(,1),4"
ovs-ofctl add-flow br0 "in_port=3,actions=1,exit,4"
ovs-ofctl add-flow br0 "table=1,tcp,actions=1,exit"
ovs-ofctl add-flow br0 "table=1,udp,actions=3"
