# Tables without a flow that matches: dropped in all of them.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=1,actions=goto_table:9"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=9,udp,actions=2"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=2,actions=output:1,goto_table:200"
