# forward-bpdu lets frames for the bridge group addresses through.
ovs-vsctl set bridge br0 other_config:forward-bpdu=true
