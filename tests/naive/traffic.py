"""Traffic the slow way: a receiver that remembers every number, payloads found step by step, replies field by field."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

SIGNATURE = 0x5E4B
VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
UDP, TCP, ICMP = 17, 6, 1


def stamp(sequence: int, flow: int, time: int = 0) -> bytes:
    return struct.pack("<QQ", SIGNATURE | sequence << 16, flow << 40 | time & (1 << 40) - 1)


def read_stamp(data: bytes) -> tuple[int, int, int]:
    """Signature, sequence number and flow of 16 bytes."""
    first, second = struct.unpack("<QQ", data)
    return first & 0xFFFF, first >> 16, second >> 40


@dataclass
class Receiver:
    """One flow's counts."""

    window: int
    came: set[int] = field(default_factory=set)
    duplicates: int = 0
    reordered: int = 0
    late: int = 0

    @property
    def next(self) -> int:
        return max(self.came, default=-1) + 1

    def take(self, sequence: int) -> None:
        if sequence < self.next - self.window:
            self.late += 1
        elif sequence in self.came:
            self.duplicates += 1
        else:
            self.reordered += sequence < self.next
            self.came.add(sequence)


def percentile(values: Sequence[int], part: float) -> int:
    """The smallest value that this part of all do not exceed."""
    return sorted(values)[max(1, math.ceil(part * len(values))) - 1]


def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def network_at(frame: bytes) -> int:
    """The offset behind the Ethernet header and up to two tags; 0 when the frame is shorter."""
    at = 14
    while at <= 18 and len(frame) >= at and word(frame, at - 2) in VLAN_TYPES:
        at += 4
    return at if len(frame) >= at else 0


def payload_at(frame: bytes) -> int:
    """The offset of a UDP or TCP payload; 0 when there is none."""
    l3 = network_at(frame)
    packet = frame[l3:]
    kind = word(frame, l3 - 2) if l3 else 0
    if kind == 0x0800 and len(packet) >= 20 and (packet[0] & 15) >= 5 and word(packet, 6) & 0x1FFF == 0:
        proto, l4 = packet[9], (packet[0] & 15) * 4
    elif kind == 0x86DD and len(packet) >= 40:
        proto, l4 = packet[6], 40
    else:
        return 0
    if proto == UDP:
        end = l4 + 8
    elif proto == TCP and len(packet) >= l4 + 20:
        end = l4 + (packet[l4 + 12] >> 4) * 4
    else:
        return 0
    return l3 + end if end <= len(packet) else 0


def exchanged(data: bytes, first: int, second: int, size: int) -> bytes:
    """The data with two fields of ``size`` bytes exchanged."""
    result = bytearray(data)
    result[first : first + size], result[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    return bytes(result)


def reflected(frame: bytes) -> bytes | None:
    """The frame sent back, or None when it is not."""
    l3 = network_at(frame)
    if l3 == 0 or frame[0] & 1:
        return None
    kind, packet = word(frame, l3 - 2), frame[l3:]
    if kind == 0x0800 and len(packet) >= 20:
        l4 = (packet[0] & 15) * 4
        whole = word(packet, 6) & 0x3FFF == 0 and l4 >= 20
        if whole and packet[9] in (UDP, TCP) and len(packet) >= l4 + 4:
            packet = exchanged(packet, l4, l4 + 2, 2)
        packet = exchanged(packet, 12, 16, 4)
    elif kind == 0x86DD and len(packet) >= 40:
        if packet[6] in (UDP, TCP) and len(packet) >= 44:
            packet = exchanged(packet, 40, 42, 2)
        packet = exchanged(packet, 8, 24, 16)
    return exchanged(frame[:l3], 0, 6, 6) + packet
