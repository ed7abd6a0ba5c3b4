# Only one tag is looked at, as before QinQ.
ovs-vsctl set Open_vSwitch . other_config:vlan-limit=1
ovs-vsctl set port p1 trunks=10
