"""Header edits the slow way: bytes in, bytes out, every checksum computed afresh from the definitions."""

from __future__ import annotations

from dataclasses import dataclass

from naive.packet import walk_ipv6
from naive.packet_checksum import checksum, ones_sum, pseudo, sctp

PLACES = {6: 16, 17: 6, 58: 2, 132: 8}
SNAP = bytes.fromhex("aaaa03000000")


def push_vlan(frame: bytes, tpid: int, tci: int) -> bytes:
    return frame[:12] + tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") + frame[12:]


def pop_vlan(frame: bytes) -> bytes:
    return frame[:12] + frame[16:]


def _grow(header: bytes, change: int) -> bytes:
    """An Ethernet header whose 802.3 length, if it has one, changed."""
    if header[-8:-2] != SNAP:
        return header
    return header[:-10] + (int.from_bytes(header[-10:-8], "big") + change).to_bytes(2, "big") + header[-8:]


def push_mpls(frame: bytes, l3: int, eth_type: int, entry: int) -> bytes:
    header = _grow(frame[:l3], 4)
    return header[:-2] + eth_type.to_bytes(2, "big") + entry.to_bytes(4, "big") + frame[l3:]


def pop_mpls(frame: bytes, l3: int, eth_type: int) -> bytes:
    header = _grow(frame[:l3], -4)
    return header[:-2] + eth_type.to_bytes(2, "big") + frame[l3 + 4 :]


def masked(old: bytes, new: bytes, mask: bytes) -> bytes:
    """``new`` where ``mask`` has ones, ``old`` elsewhere."""
    return bytes(o & ~m & 255 | n & m for o, n, m in zip(old, new, mask, strict=True))


@dataclass
class Layers:
    """Where layer 4 is in an IP packet, and what its checksum covers besides."""

    l4: int
    proto: int
    src: bytes
    dst: bytes

    @classmethod
    def of(cls, packet: bytes) -> Layers:
        if packet[0] >> 4 == 4:
            return cls((packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20])
        walk = walk_ipv6(packet)
        final = walk.final or 24
        return cls(walk.offset, walk.proto, packet[8:24], packet[final : final + 16])


def repair(packet: bytes, partial: bool) -> bytes:
    """The IP packet with all its checksums right; ``partial``: layer 4 holds the sum of the pseudo header only."""
    fixed = bytearray(packet)
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        fixed[10:12] = b"\0\0"
        fixed[10:12] = checksum(bytes(fixed[:size])).to_bytes(2, "big")
    layers = Layers.of(packet)
    if layers.proto not in PLACES or (layers.proto == 132 and partial):
        return bytes(fixed)
    body = bytes(fixed[layers.l4 :])
    at = layers.l4 + PLACES[layers.proto]
    front = pseudo(layers.src, layers.dst, layers.proto, len(body))
    if layers.proto == 132:
        fixed[at : at + 4] = sctp(body)
    elif partial:
        fixed[at : at + 2] = ones_sum(front).to_bytes(2, "big")
    elif layers.proto != 17 or any(fixed[at : at + 2]) or len(layers.src) == 16:
        fixed[at : at + 2] = b"\0\0"
        value = checksum(front + bytes(fixed[layers.l4 :]))
        fixed[at : at + 2] = (0xFFFF if value == 0 and layers.proto == 17 else value).to_bytes(2, "big")
    return bytes(fixed)


def get_tos(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else int.from_bytes(packet[:2], "big") >> 4 & 255


def set_tos(packet: bytes, tos: int) -> bytes:
    if packet[0] >> 4 == 4:
        return packet[:1] + bytes([tos]) + packet[2:]
    first = int.from_bytes(packet[:2], "big") & 0xF00F | tos << 4
    return first.to_bytes(2, "big") + packet[2:]


def ttl_place(packet: bytes) -> int:
    return 8 if packet[0] >> 4 == 4 else 7
