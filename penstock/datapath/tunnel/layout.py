"""The structs of tunnels, written by the engine's main thread and read by workers.

A TUNNEL is a tunnel port. An ENDPOINT is one far end of it as it is reached now: a finished header and the port of the
underlay by which it goes. ARRIVALS tells what tunnels end here, and is replaced whole by a pointer store. An ENDPOINT
stays where it is: a new MAC address of the next hop is one store of eight bytes, and for anything else the endpoint is
UNRESOLVED until every worker has passed a quiet point. Addresses have 16 bytes; one of IPv4 is in the first four, the
rest is zero.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.layout import HEADROOM, packet_at
from penstock.machine import fill, kernel, load64, offset, view
from penstock.packet.fields import TUNNEL_AT, TUNNEL_SIZE

VXLAN, GENEVE, GRE = range(3)
ADDRESS = 16

# TUNNEL.flags
REMOTE_BY_FLOW, KEY_BY_FLOW, CHECKSUM, TOS_INHERIT, TTL_INHERIT, GROUP_POLICY, BY_VLAN = (1 << bit for bit in range(7))

VLANS = 4096
NO_VNI = -1

TUNNEL = np.dtype(
    [
        ("kind", "i4"),
        ("flags", "i4"),
        ("tos", "i8"),
        ("endpoint", "i8"),  # ENDPOINT of the one far end; 0: the packet tells it
        ("endpoints4", "i8"),  # MAP from (local, remote) as they stand in a key to ENDPOINT
        ("endpoints6", "i8"),  # MAP from a hash of both
        ("local4", "i8"),  # local IPv4 address as in the lower half of such a key; 0: any
        ("key", "i8"),  # of packets sent, as ``tun_id`` is in a flow key
        ("remote", "u1", ADDRESS),  # address that packets must come from; zeros: any
        ("local", "u1", ADDRESS),  # address that they must come to
        ("vnis", "i8"),  # BY_VLAN: VLANS i4, each a VNI or NO_VNI
        ("floods", "i8"),  # BY_VLAN: VLANS addresses of FLOOD, or 0
        ("remotes", "i8"),  # BY_VLAN: addresses of ENDPOINTs by the number that an FDB entry has
        ("pad", "i8", 2),
    ],
    align=True,
)
TUNNEL_REMOTE, TUNNEL_LOCAL = offset(TUNNEL, "remote"), offset(TUNNEL, "local")

UNRESOLVED, READY = range(2)
WAITING_MAX = 64  # packets that wait for one far end
HEADER_BYTES = 96

ENDPOINT = np.dtype(
    [
        ("state", "i4"),
        ("underlay", "i4"),  # number of the port, of kind internal, as whose host's packets go out
        ("length", "i4"),  # bytes of header
        ("l3", "i4"),  # offsets in it
        ("l4", "i4"),
        ("key_at", "i4"),
        ("room", "i4"),  # longest frame that goes in
        ("six", "i4"),
        ("used", "i8"),  # second in which a worker last sent to it
        ("waiting", "i8"),  # packets that workers handed to the main thread to keep
        ("sum", "i8"),  # of the words of the IPv4 header behind the first four bytes
        ("number", "i8"),  # in TUNNEL.remotes
        ("header", "u1", HEADER_BYTES),
        ("asked", "u1", 2 * ADDRESS),  # local and remote as packets name it
    ],
    align=True,
)
HEADER, ASKED, WAITING = offset(ENDPOINT, "header"), offset(ENDPOINT, "asked"), offset(ENDPOINT, "waiting")
assert HEADER % 64 == 0
assert HEADER_BYTES <= HEADROOM

FLOOD = np.dtype([("count", "i8"), ("endpoints", "i8", 1)], align=True)  # ``count`` addresses of ENDPOINTs
FLOOD_ENDPOINTS = offset(FLOOD, "endpoints")

SERVICES_MAX = 16
LOCALS_MAX = 64
CLASSES_MAX = 8
# What tunnel ports tell packets apart by, besides their kind and UDP port: bits of a class.
BY_KEY, BY_REMOTE, BY_LOCAL = 1, 2, 4

ARRIVALS = np.dtype(
    [
        ("map", "i8"),  # MAP from class, service, key, addresses to port number and VLAN
        ("service_count", "i8"),
        ("class_count", "i8"),
        ("local4_count", "i8"),
        ("local6_count", "i8"),
        ("gre", "i8"),  # service of GRE; -1: none
        ("classes", "i8", CLASSES_MAX),  # those that there are, in the order in which they are tried
        ("services", "i8", SERVICES_MAX),  # by number: raw UDP port (GRE: GRE_PORT), and kind above bit 32
        # Addresses that tunnels end at, each with the number of the internal port whose device has it: a frame for it
        # that goes to another one's device, as a tenant may send, ends no tunnel.
        ("locals4", "i8", LOCALS_MAX),  # the port above bit 32
        ("locals6", "i8", 2 * LOCALS_MAX),
        ("ports6", "i8", LOCALS_MAX),
    ],
    align=True,
)
CLASSES, SERVICES = offset(ARRIVALS, "classes"), offset(ARRIVALS, "services")
LOCALS4, LOCALS6, PORTS6 = offset(ARRIVALS, "locals4"), offset(ARRIVALS, "locals6"), offset(ARRIVALS, "ports6")
GRE_PORT = 1 << 16

# A value of the map: port number, VLAN, VALID.
VLAN_SHIFT, VALID = 16, 1 << 32

# A packet for a far end that is not known, with all that tells where it goes; its bytes follow. None: only the address
# of a far end that was heard from. It comes back in the same form.
ASK = np.dtype(
    [
        ("port", "i4"),
        ("length", "i4"),
        ("endpoint", "i8"),  # UNRESOLVED, or 0
        ("remote", "i4"),
        ("vid", "i4"),
        ("offloads", "i8"),
        ("tunnel", "u1", TUNNEL_SIZE),
        ("headroom", "u1", HEADROOM),
    ],
    align=True,
)
ASK_TUNNEL, ASK_BYTES = offset(ASK, "tunnel"), ASK.itemsize
TOO_BIG = -1  # in place of an endpoint: the packet was too long for its tunnel, and ``vid`` is what goes in
TOLD_MAX = 1500  # bytes of such a packet
# A worker asks the main thread for so much in a second at most, whatever guests and the network send.
ASKS_IN_A_SECOND, TOLD_IN_A_SECOND = 2048, 128

tunnel_at = view(TUNNEL)
endpoint_at = view(ENDPOINT)
arrivals_at = view(ARRIVALS)
ask_at = view(ASK)
flood_at = view(FLOOD)


@kernel
def clear_tunnel(packets, count):
    """Have packets come by no tunnel."""
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        fill(p.key + TUNNEL_AT, 0, TUNNEL_SIZE)
        p.remote = 0
    return 0
