"""Run by Debian's Python, which has Mininet: a topology of its stock OVSSwitch in user space, and pingAll.

Arguments: "tree" or "linear". Prints the percentage of pings that were lost.
"""

import sys

from mininet.net import Mininet
from mininet.node import OVSSwitch
from mininet.topo import LinearTopo
from mininet.topolib import TreeTopo

TOPOLOGIES = {"tree": lambda: TreeTopo(depth=2, fanout=2), "linear": lambda: LinearTopo(k=4)}

Mininet.inited = True  # else it changes limits of the whole machine
net = Mininet(TOPOLOGIES[sys.argv[1]](), switch=OVSSwitch, controller=None, build=True)
for switch in net.switches:
    switch.datapath, switch.failMode = "user", "standalone"
net.start()
try:
    print(net.pingAll(timeout="2"))
finally:
    net.stop()
