"""Ingress policing of a port: what its buckets let in, in the order in which it came, and the rest counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec, Policing, PortSpec
from tests.engine.support import drops, frame, mac, send, sent

pytestmark = pytest.mark.root

A, B = mac(1), mac(2)
SPEC = PortSpec("br0", "a", "dummy", {"keep": True})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    warm(lambda done, total, name: None)
    made = Engine(workers=1, arena_bytes=256 << 20)
    made.add_bridge(BridgeSpec("br0"))
    made.add_port(SPEC)
    made.add_port(PortSpec("br0", "b", "dummy", {"keep": True}))
    yield made
    made.stop()


def limit(engine: Engine, **limits: int) -> None:
    """Police port a so, its buckets full."""
    engine.set_port(SPEC)
    engine.set_port(replace(SPEC, policing=Policing(**limits)))


def passed(engine: Engine, frames: list[bytes]) -> list[bytes]:
    sent(engine, "b")
    send(engine, "a", frames)
    return sent(engine, "b")


def of_size(octets: int, number: int = 0) -> bytes:
    return frame(B, A, number.to_bytes(2, "big").ljust(octets - 14, b"\0"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=80), st.integers(1, 5))
def test_kilobits(engine: Engine, sizes: list[int], burst: int) -> None:
    """A rate so low that the bucket stays as it is: each frame passes for which there is room left."""
    limit(engine, rate=1, burst=8 * burst)
    frames = [of_size(size * 50, number) for number, size in enumerate(sizes)]
    room, expected = 1000 * burst, []
    for each in frames:
        if len(each) <= room:
            room -= len(each)
            expected.append(each)
    before = drops(engine, "a").get("ingress_policed", 0)
    assert passed(engine, frames) == expected
    assert drops(engine, "a").get("ingress_policed", 0) - before == len(frames) - len(expected)
    engine.set_port(SPEC)
    assert passed(engine, frames) == frames


def test_packets(engine: Engine) -> None:
    limit(engine, kpkts_rate=1, kpkts_burst=1)
    begin = time.monotonic()
    through = sum(len(passed(engine, [of_size(60)] * 50)) for _ in range(30))
    assert 1000 <= through <= 1001 + (time.monotonic() - begin) * 1000
    time.sleep(0.1)
    assert len(passed(engine, [of_size(60)] * 50)) == 50, "what a tenth of a second lets in"


def test_bursts_are_those_of_open_vswitch_if_none_is_given(engine: Engine) -> None:
    limit(engine, rate=1)
    assert sum(len(passed(engine, [of_size(1000)] * 50)) for _ in range(25)) == 1000
    limit(engine, kpkts_rate=1)
    assert sum(len(passed(engine, [of_size(60)] * 64)) for _ in range(250)) == 16000


def test_both_limits_hold(engine: Engine) -> None:
    limit(engine, rate=1, burst=8, kpkts_rate=1000)
    assert len(passed(engine, [of_size(100)] * 30)) == 10
    engine.remove_port("a")
    engine.add_port(replace(SPEC, policing=Policing(rate=1, burst=16)))
    assert len(passed(engine, [of_size(100)] * 30)) == 20, "from the beginning too"
    engine.remove_port("a")
    engine.add_port(SPEC)
    assert len(passed(engine, [of_size(100)] * 30)) == 30
