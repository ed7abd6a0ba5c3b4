# A file of flows in place of those that were there, and a bundle.
ovs-ofctl add-flow br0 in_port=1,actions=drop
printf 'in_port=1,actions=2\nin_port=2,tcp,actions=1\npriority=1,actions=flood\n' | ovs-ofctl replace-flows br0 -
printf 'delete in_port=2\nadd in_port=2,udp,actions=3\nmodify in_port=1,actions=4\n' | ovs-ofctl -O OpenFlow14,OpenFlow13 add-flows br0 -
