# Standalone, and the controller is not there: after a while the bridge learns and floods by itself.
# differs (flows): Open vSwitch forgets the flows, Penstock keeps them for when the controller is back.
ovs-vsctl set-fail-mode br0 standalone
ovs-vsctl set-controller br0 tcp:127.0.0.1:1 -- set controller br0 connection_mode=out-of-band inactivity_probe=1000
ovs-ofctl add-flow br0 in_port=1,actions=drop
sleep 5
