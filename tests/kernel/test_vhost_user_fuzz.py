"""A front end that says almost what it should: a valid handshake with messages changed, cut, left out, repeated and out
of place, with any descriptors. Whatever it says, the engine lives, others are served, nothing is left when it is gone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec
from penstock.ports.vhost_user.messages import (
    INFLIGHT,
    LOG_AREA,
    MEMORY_HEADER,
    NEED_REPLY,
    SINGLE_REGION,
    U64,
    VRING_NO_FD,
    VRING_STATE,
    Request,
    encode,
)
from penstock.ports.vhost_user.port import VhostUser
from penstock.ports.vhost_user.requests import PROTOCOL_FEATURES
from penstock.ports.vhost_user.virtio import Feature, mask
from tests.engine.support import add_dummy, clear, frame, mac, send, sent
from tests.kernel.vhost_support import (
    BASIC,
    GUEST,
    MEMORY_BYTES,
    PACKED,
    RING_SIZE,
    USER,
    Front,
    Memory,
    Ring,
    add_vhost,
    open_descriptors,
    shared_mappings,
    vring_address,
)

Said = tuple[int, bytes, list[int]]  # request, payload, descriptors
EDGES = (0, 1, 2, 7, 8, 16, 255, 256, 4095, 4096, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path, VhostUser]]:
    warm(lambda _done, _total, _name: None)
    engine = Engine(workers=1, arena_bytes=256 << 20, huge_pages=False)
    engine.add_bridge(BridgeSpec("br0"))
    for name in ("left", "right"):
        add_dummy(engine, name)
    path = tmp_path_factory.mktemp("fuzz") / "vm.sock"
    yield engine, path, add_vhost(engine, path)
    clear(engine)
    engine.stop()


def handshake(memory: Memory, packed: bool) -> list[Said]:
    """What a front end has to say, and may."""
    rings = [Ring(memory, index, packed) for index in (0, 1)]
    for ring in rings:
        for _ in range(3):
            ring.offer((GUEST + 0x40000, 2048, 0 if ring.index else 2))
    features = BASIC | (PACKED if packed else 0)
    region = memory.region
    said: list[Said] = [
        (Request.GET_FEATURES, b"", []),
        (Request.SET_FEATURES, U64.pack(features), []),
        (Request.GET_PROTOCOL_FEATURES, b"", []),
        (Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL_FEATURES), []),
        (Request.GET_QUEUE_NUM, b"", []),
        (Request.SET_STATUS, U64.pack(3), []),
        (Request.SET_MEM_TABLE, MEMORY_HEADER.pack(1, 0) + region.pack(), [memory.fd]),
        (Request.ADD_MEM_REG, SINGLE_REGION.pack(0, GUEST << 1, MEMORY_BYTES, USER << 1, 0), [memory.fd]),
        (Request.GET_INFLIGHT_FD, INFLIGHT.pack(0, 0, 2, RING_SIZE), []),
        (Request.SET_INFLIGHT_FD, INFLIGHT.pack(128, MEMORY_BYTES - 4096, 2, RING_SIZE), [memory.fd]),
    ]
    for ring in rings:
        said += [
            (Request.SET_VRING_NUM, VRING_STATE.pack(ring.index, RING_SIZE), []),
            (Request.SET_VRING_BASE, VRING_STATE.pack(ring.index, 0x80008000 if packed else 0), []),
            (Request.SET_VRING_ADDR, vring_address(ring.index, ring.places), []),
            (Request.SET_VRING_CALL, U64.pack(ring.index), [ring.call]),
            (Request.SET_VRING_ERR, U64.pack(ring.index | VRING_NO_FD), []),
            (Request.SET_VRING_KICK, U64.pack(ring.index), [ring.kick]),
            (Request.SET_VRING_ENABLE, VRING_STATE.pack(ring.index, 1), []),
        ]
    return [
        *said,
        (Request.NET_SET_MTU, U64.pack(1500), []),
        (Request.SEND_RARP, mac(1) + b"\0\0", []),
        (Request.SET_LOG_BASE, LOG_AREA.pack(1 << 18, 0), [memory.fd]),
        (Request.SET_FEATURES, U64.pack(features | mask(Feature.LOG_ALL)), []),
        (Request.SET_VRING_ADDR, vring_address(1, rings[1].places, 1, GUEST), []),
        (Request.GET_VRING_BASE, VRING_STATE.pack(1, 0), []),
        (Request.SET_VRING_KICK, U64.pack(1), [rings[1].kick]),
        (Request.REM_MEM_REG, SINGLE_REGION.pack(0, GUEST << 1, MEMORY_BYTES, USER << 1, 0), []),
        (Request.SET_STATUS, U64.pack(0), []),
        (Request.RESET_DEVICE, b"", []),
    ]


class Liar:
    """Changes what is to be said."""

    def __init__(self, chance: random.Random, memory: Memory) -> None:
        self.chance, self.memory = chance, memory
        reader, writer = os.pipe()
        short = os.memfd_create("short", os.MFD_CLOEXEC)
        directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        self.own = [reader, writer, short, directory]
        self.fds = [*self.own, memory.fd, memory.eventfd()]

    def close(self) -> None:
        for fd in self.own:
            os.close(fd)

    def change(self, said: Said) -> Said:
        """One message with something wrong in it, perhaps."""
        request, payload, fds = said
        chance = self.chance
        kind = chance.randrange(6)
        if kind == 0 and payload:  # a number of it
            size = chance.choice((2, 4, 8))
            place = chance.randrange(0, len(payload), size)
            value = (chance.choice(EDGES) + chance.choice((0, 0, 0, -1, 1))) % (1 << size * 8)
            payload = (payload[:place] + value.to_bytes(size, "little") + payload[place + size :])[: len(payload)]
        elif kind == 1:
            payload = payload[: chance.randrange(len(payload) + 1)] + chance.randbytes(chance.choice((0, 0, 1, 100)))
        elif kind == 2:
            fds = [chance.choice(self.fds) for _ in range(chance.choice((0, 1, 1, 2, 8, 9)))]
        elif kind == 3:
            request = chance.choice((*Request, chance.getrandbits(8), chance.getrandbits(32)))
        elif kind == 4 and payload:
            place = chance.randrange(len(payload))
            payload = payload[:place] + chance.randbytes(1) + payload[place + 1 :]
        return request, payload, fds

    def retell(self, said: list[Said]) -> list[Said]:
        """The whole of it with a few changes."""
        chance = self.chance
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(said))
            kind = chance.randrange(5)
            if kind == 0:
                said.insert(chance.randrange(len(said)), said[at])
            elif kind == 1:
                said.insert(chance.randrange(len(said)), said.pop(at))
            elif kind == 2 and len(said) > 1:
                said.pop(at)
            else:
                said[at] = self.change(said[at])
        return said


def held() -> tuple[list[str], list[str]]:
    """Descriptors and mappings of this process."""
    return open_descriptors(), shared_mappings()


def leaks(before: tuple[list[str], list[str]]) -> list[str]:
    """What is held now and was not then."""
    return [
        each for now, then in zip(held(), before, strict=True) for each in (Counter(now) - Counter(then)).elements()
    ]


@settings(max_examples=60)
@given(st.integers(0, (1 << 64) - 1), st.booleans())
def test_a_front_end_that_lies(switch: tuple[Engine, Path, VhostUser], seed: int, packed: bool) -> None:
    engine, path, port = switch
    chance = random.Random(seed)
    before = held()
    data = frame(b"\xff" * 6, mac(77))
    with Memory() as memory:
        liar = Liar(chance, memory)
        front = Front(engine, path)
        front.connection.settimeout(0.2)
        flags = NEED_REPLY * chance.randrange(2)
        for request, payload, fds in liar.retell(handshake(memory, packed)):
            encoded = encode(request, payload, flags)
            if chance.random() < 0.02:
                encoded = encoded[: chance.randrange(1, len(encoded))]
            front.raw(encoded, fds)
            if front.lost:
                break
        port.check()
        send(engine, "left", [data])
        assert data in sent(engine, "right")
        front.close()
        front.serve()
        liar.close()
    assert port.check()[0] == "down"
    assert port.driver_stats()["rings"] == 0
    assert leaks(before) == []
