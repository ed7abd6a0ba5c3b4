# Tag 0 as an access port, and a trunk with a tag that says vlan_mode=trunk.
ovs-vsctl set port p1 tag=0
ovs-vsctl set port p2 tag=10 vlan_mode=trunk trunks=10,20
