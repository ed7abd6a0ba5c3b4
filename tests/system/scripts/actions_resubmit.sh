# resubmit to tables and with other ports; what follows is done as well.
ovs-ofctl del-flows br0
ovs-ofctl add-flow br0 "table=0,in_port=1,actions=resubmit(,1),resubmit(,2),4"
ovs-ofctl add-flow br0 "table=0,in_port=2,actions=resubmit(3,1),1"
ovs-ofctl add-flow br0 "table=0,in_port=3,actions=resubmit:9"
ovs-ofctl add-flow br0 "table=0,in_port=9,actions=1,2,3"
ovs-ofctl add-flow br0 "table=1,in_port=1,actions=mod_vlan_vid:5,2"
ovs-ofctl add-flow br0 "table=1,in_port=3,actions=4,3"
ovs-ofctl add-flow br0 "table=2,dl_vlan=5,actions=3"
