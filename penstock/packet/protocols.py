"""Numbers of the protocols that kernels know: Ethernet types, IP protocols, header sizes.

Names ending in ``_RAW`` are the values that a little-endian load of the bytes gives, for comparison without a swap;
the others are as the standards write them. Constants only.
"""

from __future__ import annotations

import sys

if sys.byteorder != "little":
    raise ImportError(f"penstock.packet compares raw little-endian words; this machine is {sys.byteorder}-endian")


def raw16(value: int) -> int:
    """What ``load16`` gives for two bytes that hold ``value`` in network order."""
    return (value & 255) << 8 | value >> 8


ETH_HEADER = 14
VLAN_TAG = 4
MPLS_ENTRY = 4
SNAP_HEADER = 8
ARP_PACKET = 28
IPV4_HEADER = 20
IPV6_HEADER = 40
TCP_HEADER = 20
UDP_HEADER = 8
SCTP_HEADER = 12
ICMP_HEADER = 8
ICMPV6_HEADER = 4
FRAGMENT_HEADER = 8
ND_MESSAGE = 24

IPV4_RAW = raw16(0x0800)
IPV6_RAW = raw16(0x86DD)
ARP_RAW = raw16(0x0806)
RARP_RAW = raw16(0x8035)
MPLS_RAW = raw16(0x8847)
MPLS_MULTICAST_RAW = raw16(0x8848)
VLAN_RAW = raw16(0x8100)
SVLAN_RAW = raw16(0x88A8)
OLD_SVLAN_RAW = raw16(0x9100)
NOT_TYPED_RAW = raw16(0x05FF)  # OpenFlow's eth_type of an 802.3 frame without SNAP
LLC_SNAP_RAW = 0x03AAAA  # AA AA 03 and the zero OUI of RFC 1042, as the low six bytes of a word
TAG_PRESENT_RAW = raw16(0x1000)

MAC_MASK = (1 << 48) - 1

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60

TCP_CHECKSUM, UDP_CHECKSUM, ICMPV6_CHECKSUM, SCTP_CHECKSUM = 16, 6, 2, 8
