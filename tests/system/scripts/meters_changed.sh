# Meters taken away, with the flows that name them, and changed.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-meter br0 "meter=1,kbps,burst,band=type=drop,rate=1,burst_size=1"
ovs-ofctl -O OpenFlow13 add-meter br0 "meter=2,pktps,band=type=drop,rate=10000000"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=1,actions=meter:1,output:2"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=2,actions=meter:2,output:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "in_port=3,actions=meter:2,write_actions(output:4)"
ovs-ofctl -O OpenFlow13 mod-meter br0 "meter=1,kbps,burst,band=type=drop,rate=10000000,burst_size=10000000"
ovs-ofctl -O OpenFlow13 del-meter br0 meter=2
