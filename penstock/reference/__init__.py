"""The reference measurement: VMs behind VXLAN at a cloud's scale, after a talk of 2016."""
