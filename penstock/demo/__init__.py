"""`python -m penstock.demo`: hosts, traffic and a switch on one machine, and a verdict on each thing claimed.

Stands above all other rooms. `hosts`, `echo`, `traffic` and `launch` serve the system tests and benchmarks as well.
"""
