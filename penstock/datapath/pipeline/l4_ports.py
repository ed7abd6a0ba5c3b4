"""The ports of IP fragments as flows see them: 0, also in a first fragment, which has them (ovs-ofctl(8), set-frags).

So they are hidden in the key while flows are searched, and there again for actions. What stands in their place for
ICMP, type and code, goes the same way.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at
from penstock.datapath.pipeline.layout import FRAG_NX_MATCH
from penstock.machine import inlined, kernel, load8, load16, load32, store32
from penstock.packet.fields import key_offset
from penstock.packet.protocols import ICMP, ICMPV6

FRAG, PROTO, PORTS = map(key_offset, ("ip_frag", "nw_proto", "tcp_src"))


@inlined
def hides_ports(key, frags):
    """Whether flows do not see the ports of a packet with this key, fragments being handled so."""
    return load8(key + FRAG) != 0 and frags != FRAG_NX_MATCH


@inlined
def hide_ports(key):
    """Take the ports out of a key; what they were."""
    ports = load32(key + PORTS)
    store32(key + PORTS, 0)
    return ports


@kernel
def show_ports(packet):
    """Put a packet's ports, which were hidden, in its key again."""
    p = packet_at(packet)
    if p.l4 == 0:
        return 0
    proto = load8(p.key + PROTO)
    at = p.head + p.l4
    store32(p.key + PORTS, load16(at) if proto == ICMP or proto == ICMPV6 else load32(at))
    return 1
