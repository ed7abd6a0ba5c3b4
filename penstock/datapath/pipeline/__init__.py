"""The OpenFlow pipeline as workers run it: flow tables, flow cache, action programs, groups and meters."""
