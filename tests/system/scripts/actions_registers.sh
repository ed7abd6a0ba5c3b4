# Registers and metadata carry decisions from table to table.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=1,actions=load:0x5->NXM_NX_REG0[],goto_table:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=2,actions=load:0x15->NXM_NX_REG0[],write_metadata:0x77/0xff,goto_table:1"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=0,in_port=3,actions=set_field:0x1234->xxreg1,resubmit(,1)"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,priority=5,reg0=0x5/0xf,metadata=0,actions=2"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,priority=5,metadata=0x77,actions=3"
ovs-ofctl -O OpenFlow13 add-flow br0 "table=1,priority=5,reg7=0x1234,actions=4"
