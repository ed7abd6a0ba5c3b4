# VLAN settings that are taken back.
ovs-vsctl set port p1 tag=10 vlan_mode=access -- set port p2 trunks=20
ovs-vsctl clear port p1 tag vlan_mode
ovs-vsctl remove port p2 trunks 20
