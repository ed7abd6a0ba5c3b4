"""What tests of vhost-user ports share: a front end that has the engine's loop turned while it waits, a guest's memory,
and rings in it that a test writes as it likes. One thread does all of it, but for the engine's workers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.engine import Engine
from penstock.machine import load_acquire16, store_release16
from penstock.ports.spec import PortSpec, VlanConfig
from penstock.ports.vhost_user.messages import VRING_ADDRESS, Message, Request, encode
from penstock.ports.vhost_user.port import VhostUser
from penstock.ports.vhost_user.virtio import Feature, mask
from penstock.traffic.virtio_user.front import FrontEnd, Region, dial

MEMORY_BYTES = 1 << 20
GUEST, USER = 1 << 32, 0x7000_0000_0000
RING_SIZE = 16
AREAS = (0x0, 0x1000, 0x2000)  # descriptors, driver area, device area; of the ring of index n from n * RING_STRIDE on
RING_STRIDE, BUFFERS = 0x4000, 0x40000
BUFFER_BYTES = 2048
NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
BASIC = mask(Feature.VERSION_1, Feature.PROTOCOL_FEATURES)
PACKED = mask(Feature.RING_PACKED)
PACKED_START = 1 << 15 | 1 << 31


def add_vhost(engine: Engine, path: Path, name: str = "vm", bridge: str = "br0", **options: Any) -> VhostUser:
    """Add a vhost-user port."""
    engine.add_port(PortSpec(bridge, name, "vhost-user", {"path": str(path), **options}, VlanConfig()))
    port = engine.ports[name].port
    assert isinstance(port, VhostUser)
    return port


def open_descriptors() -> list[str]:
    """What the descriptors of this process are."""
    found = []
    for fd in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # the one that listed the directory
            found.append(re.sub(r"\d+", "N", str(fd.readlink())))
    return sorted(found)


def shared_mappings() -> list[str]:
    """The files that this process has mapped with others, and how much of each."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, *rest = line.split(maxsplit=5)
        if access[3] == "s":
            start, end = (int(half, 16) for half in place.split("-"))
            found.append(f"{end - start} {rest[-1]}")
    return sorted(found)


class Front(FrontEnd):
    """A front end that serves the engine's loop before it waits for an answer."""

    def __init__(self, engine: Engine, path: Path) -> None:
        super().__init__(dial(path, 5))
        self.engine = engine
        self.serve()

    def serve(self) -> None:
        """Have the engine take what was sent."""
        for _ in range(3):
            self.engine.loop.turn(0.001)

    def _answer(self, request: Request) -> Message:
        self.serve()
        return super()._answer(request)

    def tell(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        super().tell(request, payload, fds)
        self.serve()

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes with any descriptors; that the back end has closed the connection does not matter."""
        try:
            if fds:
                socket.send_fds(self.connection, [data], list(fds))
            else:
                self.connection.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.serve()

    def message(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        self.raw(encode(request, payload, flags), fds)

    @property
    def lost(self) -> bool:
        """Whether the back end has closed the connection."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.connection.settimeout(5)


class Memory:
    """A guest's memory: a file of its own, mapped here too, and what was made for it."""

    def __init__(self, size: int = MEMORY_BYTES) -> None:
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.data = mmap.mmap(self.fd, size)
        self._fds: list[int] = [self.fd]

    def close(self) -> None:
        self.data.close()
        for fd in self._fds:
            os.close(fd)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def region(self) -> Region:
        return Region(GUEST, self.size, USER, 0)

    def eventfd(self) -> int:
        self._fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return self._fds[-1]

    def put(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, at, *values)

    def publish(self, at: int, value: int) -> None:
        """Write a word of 16 bits at once: ``struct.pack_into`` writes zeros first, which a worker could see."""
        store_release16(ctypes.addressof(ctypes.c_uint16.from_buffer(self.data, at)), value)

    def observe(self, at: int) -> int:
        """A word of 16 bits, whole, and what was written before it afterwards."""
        return int(load_acquire16(ctypes.addressof(ctypes.c_uint16.from_buffer(self.data, at))))

    def get(self, at: int, form: str) -> tuple[int, ...]:
        return struct.unpack_from(form, self.data, at)


class Ring:
    """The driver of one virtqueue, said slowly: whole chains are offered, used ones collected."""

    def __init__(self, memory: Memory, index: int, packed: bool, size: int = RING_SIZE) -> None:
        self.memory, self.index, self.packed, self.size = memory, index, packed, size
        self.table, self.driver, self.device = (index * RING_STRIDE + area for area in AREAS)
        self.next = self.taken = 0  # descriptors of a split ring are used round and round
        self.offered = 0
        self.wrap = self.used_wrap = 1
        self.kick, self.call = memory.eventfd(), memory.eventfd()

    @property
    def places(self) -> tuple[int, int, int]:
        """Descriptors, device area, driver area, as SET_VRING_ADDR has them."""
        return USER + self.table, USER + self.device, USER + self.driver

    @property
    def base(self) -> int:
        """What GET_VRING_BASE is to say when everything offered was used."""
        if not self.packed:
            return self.offered
        half = self.next | self.wrap << 15
        return half | half << 16

    def offer(self, *pieces: tuple[int, int, int]) -> None:
        """Make a chain available: (guest address, length, flags WRITE or INDIRECT) of each descriptor."""
        first, first_flags = self.next, 0
        for number, (address, length, flags) in enumerate(pieces):
            flags |= NEXT if number + 1 < len(pieces) else 0
            place = self.table + self.next * 16
            following = (self.next + 1) % self.size
            if self.packed:
                flags |= AVAIL if self.wrap else USED
                self.memory.put(place, "<QIH", address, length, first)
                if number == 0:
                    first_flags = flags
                else:
                    self.memory.publish(place + 14, flags)
                self.wrap ^= following == 0
            else:
                self.memory.put(place, "<QIHH", address, length, flags, following)
            self.next = following
        if self.packed:
            self.memory.publish(self.table + first * 16 + 14, first_flags)
        else:
            self.memory.put(self.driver + 4 + self.offered % self.size * 2, "<H", first)
            self.offered = (self.offered + 1) % 65536
            self.memory.publish(self.driver + 2, self.offered)
        os.eventfd_write(self.kick, 1)

    def used(self) -> list[tuple[int, int]]:
        """(id, bytes written) of the chains of single descriptors that came back since the last call."""
        found = []
        while True:
            if self.packed:
                place = self.table + self.taken * 16
                flags = self.memory.observe(place + 14)
                if (bool(flags & AVAIL), bool(flags & USED)) != (bool(self.used_wrap),) * 2:
                    return found
                length, number = self.memory.get(place + 8, "<IH")
                self.taken = (self.taken + 1) % self.size
                self.used_wrap ^= self.taken == 0
                found.append((number, length))
            else:
                if self.memory.observe(self.device + 2) == self.taken:
                    return found
                found.append(self.memory.get(self.device + 4 + self.taken % self.size * 8, "<II"))  # type: ignore[arg-type]
                self.taken = (self.taken + 1) % 65536

    def start(self, front: Front) -> None:
        """Tell a back end of the ring."""
        front.set_vring_num(self.index, self.size)
        front.set_vring_base(self.index, PACKED_START if self.packed else 0)
        front.set_vring_addr(self.index, *self.places)
        front.set_vring_call(self.index, self.call)
        front.set_vring_kick(self.index, self.kick)
        front.set_vring_enable(self.index, True)


class Guest:
    """A guest whose driver is ready: one pair of queues, the first receiving, the second sending."""

    def __init__(self, engine: Engine, path: Path, features: int = BASIC, protocol: int = 0) -> None:
        self.front = Front(engine, path)
        self.memory = Memory()
        packed = bool(features & PACKED)
        self.receiving, self.sending = Ring(self.memory, 0, packed), Ring(self.memory, 1, packed)
        self.front.set_features(features)
        self.front.set_protocol_features(protocol)
        self.front.set_mem_table([self.memory.region], [self.memory.fd])
        for ring in (self.receiving, self.sending):
            ring.start(self.front)

    def close(self) -> None:
        self.front.close()
        self.front.serve()
        self.memory.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def send(self, frame: bytes, header: bytes = bytes(12)) -> None:
        """Make a frame available to the back end."""
        at = BUFFERS + self.sending.next * BUFFER_BYTES
        self.memory.data[at : at + len(header) + len(frame)] = header + frame
        self.sending.offer((GUEST + at, len(header) + len(frame), 0))

    def offer(self) -> int:
        """Make a receive buffer available: where it is in the memory."""
        at = BUFFERS + (RING_SIZE + self.receiving.next) * BUFFER_BYTES
        self.receiving.offer((GUEST + at, BUFFER_BYTES, WRITE))
        return at


def vring_address(index: int, places: tuple[int, int, int], flags: int = 0, log: int = 0) -> bytes:
    """A SET_VRING_ADDR payload."""
    return VRING_ADDRESS.pack(index, flags, *places, log)
