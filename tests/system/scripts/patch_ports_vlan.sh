# A patch port that carries one VLAN, untagged at the other bridge.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
# warm up: 1
ovs-vsctl del-port p3 -- del-port p4
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev
ovs-vsctl add-port br1 p3 -- add-port br1 p4
ovs-vsctl add-port br0 to1 tag=10 -- set interface to1 type=patch options:peer=to0 \
       -- add-port br1 to0 -- set interface to0 type=patch options:peer=to1
ovs-vsctl set port p1 tag=10
