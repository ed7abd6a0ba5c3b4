# A meter of a rate that is never reached, and flows without one.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-meter br0 "meter=1,kbps,burst,band=type=drop,rate=10000000,burst_size=10000000"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,actions=meter:1,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=meter:1,goto_table:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,ip,actions=output:1"
