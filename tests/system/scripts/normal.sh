# A bridge without any settings learns and floods.
# warm up: 1
ovs-vsctl show
