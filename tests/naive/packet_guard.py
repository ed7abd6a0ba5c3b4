"""Fuzz the kernels that read frames, each frame flush with an unmapped page: ``python -m ... SEED COUNT LAST``.

Half of the frames end where the unmapped page behind them begins, half begin where the one in front of them ends; so a
read of one byte too many is a segmentation fault. The file LAST names the batch (with its frames) that was under way.
Prints how many frames were parsed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import random
import sys
from pathlib import Path

from scapy.all import (
    ARP,
    IP,
    LLC,
    SCTP,
    SNAP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPOption,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP

from penstock.machine import records
from penstock.packet.checksum import finish_checksum
from penstock.packet.fields import KEY_SIZE
from penstock.packet.parse import parse, parse_link
from penstock.packet.segment import SEGMENTATION, segment_count, segment_header

PAGE = mmap.PAGESIZE
BATCH = 500
ETHERNETS = [Ether(), Ether() / Dot1Q(vlan=3), Ether() / Dot1AD(vlan=3) / Dot1Q(vlan=4), Dot3() / LLC() / SNAP()]
ROUTE = IPv6ExtHdrRouting(addresses=["::1", "::2"], segleft=1)
ABOVE = [
    ARP(),
    IP() / UDP() / b"data",
    IP(options=[IPOption(b"\x94\x04\x00\x00")]) / TCP(options=[("MSS", 1460)]) / b"data",
    IP() / SCTP(),
    IP() / ICMP(),
    IP(flags="MF") / UDP(),
    IPv6() / UDP() / b"data",
    IPv6() / IPv6ExtHdrHopByHop() / ROUTE / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1) / TCP(),
    IPv6() / ROUTE / TCP() / b"data",
    IPv6() / ICMPv6ND_NS() / ICMPv6NDOptSrcLLAddr() / ICMPv6NDOptDstLLAddr(),
    IPv6() / ICMPv6ND_NA() / ICMPv6NDOptDstLLAddr(),
    MPLS(s=0) / MPLS(s=1) / IP(),
]
CORPUS = [bytes(below / above) for below in ETHERNETS for above in ABOVE]


class Guarded:
    """One page between two unmapped ones."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 3 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.begin, self.end = start + PAGE, start + 2 * PAGE
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for guard in (start, self.end):
            if protect(guard, PAGE, 0):
                raise OSError(ctypes.get_errno(), f"mprotect of the guard page at {guard:#x} failed")

    def put(self, data: bytes, at_end: bool) -> int:
        """The address of a copy of ``data`` flush with the page behind (or else in front of) it."""
        address = self.end - len(data) if at_end else self.begin
        ctypes.memmove(address, data, len(data))
        return address


def make_frame(random: random.Random) -> bytes:
    """A frame of the corpus, mutated and cut, or random bytes."""
    if random.random() < 0.1:
        return random.randbytes(random.randrange(120))
    frame = bytearray(random.choice(CORPUS))
    for _ in range(random.choice([0, 0, 1, 2, 5])):
        frame[random.randrange(12, len(frame))] = random.choice([0, 1, 2, 4, 43, 44, 60, 255, random.randrange(256)])
    return bytes(frame[: random.choice([len(frame), random.randrange(len(frame) + 1)])])


def exercise(frame: bytes, memory: Guarded, buffer: Guarded, key: int, at_end: bool, random: random.Random) -> None:
    """Run every kernel that takes an unchecked frame."""
    address = memory.put(frame, at_end)
    ctx = key + KEY_SIZE
    parse_link(address, len(frame), key)
    result = parse(address, len(frame), key)
    request = records(SEGMENTATION, ctx)[0]
    request["head"], request["head_len"], request["tail"], request["tail_len"] = address, len(frame), memory.begin, 100
    request["l3"], request["l4"] = result & 0xFFFF, result >> 16 & 0xFFFF
    if random.random() < 0.2:
        request["l3"], request["l4"] = random.randrange(len(frame) + 9), random.randrange(len(frame) + 9)
    request["gso_type"], request["gso_size"] = random.choice([1, 3, 4, 5]), random.choice([1, 8, 100, 1448, 65535])
    count, room = segment_count(ctx), int(request["room"])
    for number in {0, count // 2, count - 1} if 0 < count and room <= PAGE else ():
        segment_header(ctx, number, buffer.end - room)
    start, offset = random.randrange(len(frame) + 9), random.choice([6, 8, 16, 65535])
    finish_checksum(address, len(frame), memory.begin, 100, start, offset)


def main() -> None:
    """Fuzz as the command line says."""
    seed, count, last = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    generator = random.Random(seed)
    memory, buffer = Guarded(), Guarded()
    room = ctypes.create_string_buffer(KEY_SIZE + SEGMENTATION.itemsize + 128)
    key = (ctypes.addressof(room) + 63) // 64 * 64
    done = 0
    while done < count:
        batch = [make_frame(generator) for _ in range(BATCH)]
        last.write_text(json.dumps([frame.hex() for frame in batch]))
        for frame in batch:
            for at_end in (True, False):
                exercise(frame, memory, buffer, key, at_end, generator)
        done += len(batch)
    sys.stdout.write(f"{done}\n")


if __name__ == "__main__":
    main()
