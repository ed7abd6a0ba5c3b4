"""Tunnel ports: VXLAN, Geneve and GRE over a bridge that has an internal port with an address of the host."""
