# MPLS labels: matched, swapped, popped, pushed, their TTL.
# differs (dscp 46): the class of a new label is part of the DSCP in Open vSwitch, and 0 by OpenFlow 1.3, 5.12.
ovs-ofctl -O OpenFlow13 del-flows br0
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,mpls,mpls_label=100,mpls_bos=1,in_port=1,actions=pop_mpls:0x0800,output:2
ovs-ofctl -O OpenFlow13 add-flow br0 priority=4,mpls,mpls_label=100,in_port=1,actions=pop_mpls:0x8847,output:3
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,mpls,in_port=2,actions=set_field:7-\>mpls_label,dec_mpls_ttl,output:3
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,ip,in_port=3,actions=push_mpls:0x8847,set_field:300-\>mpls_label,output:4
ovs-ofctl -O OpenFlow13 add-flow br0 priority=5,mpls,in_port=4,actions=push_mpls:0x8848,set_mpls_ttl:3,output:1
