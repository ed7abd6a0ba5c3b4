# Two bridges joined by patch ports, learning in both.
# warm up: 1
ovs-vsctl del-port p4
ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev
ovs-vsctl add-port br1 p4
ovs-vsctl add-port br0 to1 -- set interface to1 type=patch options:peer=to0 \
       -- add-port br1 to0 -- set interface to0 type=patch options:peer=to1
