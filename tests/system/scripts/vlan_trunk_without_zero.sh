# A trunk list leaves out VLAN 0 unless it names it: untagged frames.
ovs-vsctl set port p1 trunks=0,10 -- set port p2 trunks=10 -- set port p3 trunks=0
