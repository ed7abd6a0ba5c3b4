# Secure, and the controller is not there: no flows, no forwarding.
ovs-vsctl set bridge br0 fail_mode=secure
ovs-vsctl set-controller br0 tcp:127.0.0.1:1
ovs-vsctl set controller br0 connection_mode=out-of-band
