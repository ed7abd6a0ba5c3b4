# The same match and priority again replaces, another priority does not; hidden by default cookie.
ovs-ofctl add-flow br0 priority=5,in_port=1,actions=2
ovs-ofctl add-flow br0 priority=5,in_port=1,cookie=9,actions=3
ovs-ofctl add-flow br0 priority=4,in_port=1,actions=4
