"""Tunnels: packets of one bridge inside UDP or GRE packets of another. Headers put on and taken off in the worker."""
