# A switch that drops fragments.
ovs-ofctl set-frags br0 drop
ovs-ofctl get-frags br0
