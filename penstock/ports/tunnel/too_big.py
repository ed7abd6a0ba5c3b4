"""What a host says of a packet that is too long for a tunnel: ICMP (RFC 1191) and ICMPv6 (RFC 4443 section 3.2)."""

from __future__ import annotations

import ipaddress
import struct
import time

from penstock.packet.checksum import words_sum
from penstock.ports.tunnel.routes import IpAddress

ETHERNET, TAG = 14, 4
TAGS = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
ICMP, ICMPV6 = 1, 58
ERRORS = {3, 4, 5, 11, 12}  # ICMP types that are not answered by errors (RFC 1122 section 3.2.2)
QUOTED4, QUOTED6 = 548, 1232  # so that the answer has 576 and 1,280 bytes at most
TTL = 64
MIN_MTU6 = 1280
IN_A_SECOND, AT_ONCE = 100, 50


class Allowance:
    """How many answers may be sent: IN_A_SECOND, and AT_ONCE after a pause."""

    def __init__(self) -> None:
        self._left, self._looked = 0.0, 0.0

    def take(self) -> bool:
        """Whether one more may be sent now."""
        now = time.monotonic()
        self._left = min(AT_ONCE, self._left + (now - self._looked) * IN_A_SECOND)
        self._looked = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _checksum(data: bytes) -> bytes:
    return (~words_sum(data) & 0xFFFF).to_bytes(2, "little")


def family_of(frame: bytes) -> int:
    """4 or 6: the version of IP that a frame carries and that may be answered; 0: it is not to be answered."""
    kind, ip = _packet(frame)
    if frame[0] & 1 or frame[6] & 1:
        return 0
    if kind == b"\x08\x00" and len(ip) >= 20 and ip[0] >> 4 == 4:
        header = (ip[0] & 15) * 4
        is_error = ip[9] == ICMP and len(ip) > header and ip[header] in ERRORS
        source = ipaddress.IPv4Address(ip[12:16])
        if is_error or not ip[6] & 0x40 or source.is_multicast or source.is_unspecified:
            return 0
        return 4
    if kind == b"\x86\xdd" and len(ip) >= 40 and ip[0] >> 4 == 6:
        source6 = ipaddress.IPv6Address(ip[8:24])
        is_error = ip[6] == ICMPV6 and len(ip) > 40 and ip[40] < 128
        return 0 if is_error or source6.is_multicast or source6.is_unspecified else 6
    return 0


def _packet(frame: bytes) -> tuple[bytes, bytes]:
    """Ethernet type behind the tags, and what follows."""
    at = ETHERNET
    while frame[at - 2 : at] in TAGS:
        at += TAG
    return frame[at - 2 : at], frame[at:]


def answer(frame: bytes, mtu: int, source: IpAddress, mac: bytes) -> bytes:
    """The frame that says "too big": from the host's address, for IP packets of at most ``mtu`` bytes."""
    kind, ip = _packet(frame)
    link = frame[6:12] + mac + frame[12 : len(frame) - len(ip)]
    if kind == b"\x08\x00":
        message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + ip[:QUOTED4]
        message = message[:2] + _checksum(message) + message[4:]
        head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(message), 0, 0, TTL, ICMP, 0) + source.packed + ip[12:16]
        head = head[:10] + _checksum(head) + head[12:]
        return link + head + message
    message = struct.pack("!BBHI", 2, 0, 0, max(mtu, MIN_MTU6)) + ip[:QUOTED6]
    ends = source.packed + ip[8:24]
    pseudo = ends + struct.pack("!II", len(message), ICMPV6)
    message = message[:2] + _checksum(pseudo + message) + message[4:]
    return link + struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, TTL) + ends + message
