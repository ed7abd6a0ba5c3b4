# A bridge deleted and made again has lost its flows; ports of another name of an interface.
# differs (qinq 88a8 10 20): to an access port Open vSwitch sends no frame with two tags, or one with both taken off.
ovs-ofctl add-flow br0 actions=drop
ovs-vsctl del-br br0
ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 p1 -- add-port br0 p2 tag=10
ovs-vsctl add-port br0 p3 tag=10
