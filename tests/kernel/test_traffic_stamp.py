"""Where a stamp is looked for, against the naive parser, on whole and damaged frames; and how they are reflected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import traffic as naive
from naive.packet_frames import damaged, frames
from naive.packet_memory import Memory

from penstock.datapath.layout import PACKET
from penstock.machine import records
from penstock.traffic.layout import STAMP_BYTES
from penstock.traffic.reply_kernels import reflect
from penstock.traffic.stamp_kernels import find_payload, find_stamp, network_header
from tests.kernel.compiled import compiled

ANY_FRAME = frames() | damaged()
DEADLINE = settings(deadline=None, max_examples=300)


@pytest.fixture(scope="module")
def find() -> Callable[..., int]:
    return compiled(lambda head, length: find_stamp(head, length), 2)


@DEADLINE
@given(ANY_FRAME)
def test_payloads_are_found(frame: bytes) -> None:
    memory = Memory(frame)
    assert network_header(memory.address, len(frame)) == naive.network_at(frame)
    assert find_payload(memory.address, len(frame)) == naive.payload_at(frame)


@DEADLINE
@given(ANY_FRAME, st.integers(0, STAMP_BYTES))
def test_a_stamp_counts_only_when_all_of_it_is_there(find: Callable[..., int], frame: bytes, cut: int) -> None:
    at = naive.payload_at(frame)
    if at:
        frame = frame[:at] + naive.stamp(7, 3)[: STAMP_BYTES - cut]
    memory = Memory(frame)
    assert find(memory.address, len(frame)) == (memory.address + at if at and cut == 0 else 0)


@DEADLINE
@given(ANY_FRAME)
def test_reflecting_exchanges_every_layers_ends(frame: bytes) -> None:
    memory, packet = Memory(frame), Memory(bytes(PACKET.itemsize))
    row = records(PACKET, packet.address)[0]
    row["head"], row["head_len"] = memory.address, len(frame)
    expected = naive.reflected(frame)
    assert reflect(packet.address) == (expected is not None)
    assert memory.read() == (expected or frame)
    assert memory.untouched()
