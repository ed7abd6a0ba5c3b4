"""Packets between workers and the main thread: those whose far end is not known come by a ring from each worker, and go
back by the ring of answers when it is. One that waited in vain goes back without its bytes, for a worker to count the
drop. The engine's main thread only.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.datapath.tunnel.layout import ASK, ASK_BYTES, TOO_BIG
from penstock.memory import record_commit, record_peek, record_release, record_reserve
from penstock.packet.fields import BY_NAME, TUNNEL_AT
from penstock.ports.loop import Loop
from penstock.ports.tunnel.resolver import FarEnd
from penstock.ports.tunnel.routes import IpAddress

AGAIN_SECONDS = 0.005
READ_MAX = 1024
_HEAD = struct.Struct("=iiqiiq")
_TUNNEL = int(ASK.fields["tunnel"][1])  # type: ignore[index]
_ENDS = [
    [(_TUNNEL + BY_NAME[name].offset - TUNNEL_AT, BY_NAME[name].size) for name in names]
    for names in (("tun_src", "tun_dst"), ("tun_ipv6_src", "tun_ipv6_dst"))
]


class Asked(NamedTuple):
    """An ASK: number of the port, bytes of packet (0: only a far end was heard from), UNRESOLVED endpoint or 0."""

    port: int
    length: int
    endpoint: int
    remote: int
    vid: int
    offloads: int


def asked(record: bytes) -> Asked:
    """What a record says."""
    return Asked(*_HEAD.unpack_from(record))


def ends_of(record: bytes) -> tuple[IpAddress, IpAddress]:
    """The tunnel's source and destination address in a packet's flow key; zeros where none was set."""
    fours, sixes = ([record[at : at + size] for at, size in places] for places in _ENDS)
    source, destination = fours if any(fours[0] + fours[1]) else sixes
    return ipaddress.ip_address(source), ipaddress.ip_address(destination)


class Exchange:
    """The rings. ``take`` gets each record that a worker wrote."""

    def __init__(
        self,
        rings: tuple[Sequence[int], int, int],  # from workers, the descriptor that tells of them, and back
        loop: Loop,
        kick: Callable[[], None],
        take: Callable[[bytes], None],
    ) -> None:
        self._asks, self._fd, self._answers = rings
        self._loop, self._kick, self._take = loop, kick, take
        self._unsent: list[FarEnd] = []

    def begin(self) -> None:
        """Read what workers write from now on."""
        self._loop.watch(self._fd, self._read)

    def end(self) -> None:
        """Read no more."""
        self._loop.unwatch(self._fd)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        if self._take_records(READ_MAX) == READ_MAX:
            os.eventfd_write(self._fd, 1)

    def read_all(self) -> None:
        """Take in all that workers wrote until now."""
        while self._take_records(READ_MAX) == READ_MAX:
            pass

    def _take_records(self, most: int) -> int:
        """Take in so many records at most: how many."""
        taken = 0
        for ring in self._asks:
            while taken < most and (record := record_peek.py_func(ring)):
                taken += 1
                length = asked(ctypes.string_at(record, _HEAD.size)).length
                data = ctypes.string_at(record, ASK_BYTES + length)
                record_release.py_func(ring)
                self._take(data)
        return taken

    def give_back(self, end: FarEnd) -> None:
        """Send the packets that waited for a far end; what finds no room in the ring is tried again."""
        while end.waiting:
            if not self._answer(end.waiting[0]):
                self._unsent.append(end)
                self._loop.later(AGAIN_SECONDS, self._give_rest)
                return
            end.waiting.popleft()

    def _give_rest(self) -> None:
        ends, self._unsent = self._unsent, []
        for end in ends:
            if end.next_hop is not None:
                self.give_back(end)

    def give_up(self, end: FarEnd) -> None:
        """Drop what waits for a far end."""
        while end.waiting:
            self.drop(end.waiting.popleft())

    def drop(self, record: bytes) -> None:
        """Have a worker count a packet as dropped."""
        self._answer(_HEAD.pack(*asked(record)._replace(length=0)) + record[_HEAD.size : ASK_BYTES])

    def send(self, port: int, frame: bytes) -> None:
        """Have a frame forwarded as if an internal port's host had sent it."""
        head = _HEAD.pack(port, len(frame), TOO_BIG, 0, 0, 0)
        self._answer(head + bytes(ASK_BYTES - len(head)) + frame)

    def _answer(self, record: bytes) -> bool:
        """Put a record in the ring of answers; False when there is no room."""
        place = record_reserve.py_func(self._answers, len(record))
        if place:
            ctypes.memmove(place, record, len(record))
            record_commit.py_func(self._answers)
            self._kick()
        return bool(place)
