# A bridge without flows drops everything.
ovs-ofctl del-flows br0
