"""Frames in the record rings between workers and the control process, as Python sees them."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.datapath.handover import PACKET_IN_BYTES, PACKET_IN_KEY
from penstock.datapath.layout import FRAME_RECORD, OUT_NORMAL, OUT_PORT, OUT_PROGRAM
from penstock.datapath.pipeline.asking import REASON_FIN_TIMEOUT, REASON_LEARN
from penstock.machine import records
from penstock.memory import record_commit, record_peek, record_release, record_reserve
from penstock.packet.fields import KEY_SIZE

__all__ = [
    "OUT_NORMAL",
    "OUT_PORT",
    "OUT_PROGRAM",
    "REASON_FIN_TIMEOUT",
    "REASON_LEARN",
    "Captured",
    "Out",
    "PacketIn",
    "RecordedFrame",
    "read_packet_ins",
    "read_records",
    "write_packet_out",
]

_PACKET_IN = struct.Struct("=2q4i2q2iq")
assert _PACKET_IN.size == PACKET_IN_KEY
READ_MAX = 4096  # records per call: a reader slower than the workers must come back to its caller
FRAME_MAX = 65535


@dataclass(frozen=True)
class RecordedFrame:
    """A FRAME_RECORD and its bytes."""

    time_ns: int
    port: int
    kind: int
    wire_length: int
    data: bytes


@dataclass(frozen=True)
class Captured:
    """A frame seen at a port: Unix nanoseconds, "rx" or "tx", its length there, and as many bytes as were asked for."""

    time_ns: int
    port: str
    direction: str
    wire_length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PacketIn:
    """A frame that a worker handed to the control process; ``pipeline`` 0: for a reserved group address."""

    time_ns: int
    port: int  # engine's number
    wire_length: int
    data: bytes
    pipeline: int
    reason: int  # ofp_packet_in_reason
    table: int
    controller: int
    cookie: int
    user_data: int  # address
    max_len: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Out:
    """What becomes of a packet-out: OUT_PORT and a port, OUT_NORMAL, or OUT_PROGRAM, a pipeline and a program."""

    kind: int
    port: int = 0
    pipeline: int = 0
    program: int = 0


def read_records(ring: int) -> Iterator[RecordedFrame]:
    """Take what waits in a record ring, oldest first."""
    for _ in range(READ_MAX):
        record = int(record_peek.py_func(ring))
        if not record:
            return
        row = records(FRAME_RECORD, record)[0]
        data = ctypes.string_at(record + FRAME_RECORD.itemsize, int(row["length"]))
        yield RecordedFrame(int(row["time_ns"]), int(row["port"]), int(row["kind"]), int(row["wire_length"]), data)
        record_release.py_func(ring)


def read_packet_ins(ring: int) -> Iterator[PacketIn]:
    """Take the packet-ins that wait in a worker's ring, oldest first."""
    for _ in range(READ_MAX):
        record = int(record_peek.py_func(ring))
        if not record:
            return
        (time_ns, pipeline, port, reason, table, controller, cookie, user_data, max_len, wire_length, length) = (
            _PACKET_IN.unpack(ctypes.string_at(record, PACKET_IN_KEY))
        )
        key = ctypes.string_at(record + PACKET_IN_KEY, KEY_SIZE)
        data = ctypes.string_at(record + PACKET_IN_BYTES, length)
        yield PacketIn(
            time_ns, port, wire_length, data, pipeline, reason, table, controller, cookie & 0xFFFFFFFFFFFFFFFF,
            user_data, max_len, key,
        )  # fmt: skip
        record_release.py_func(ring)


def write_packet_out(ring: int, frame: bytes, in_port: int, out: Out) -> bool:
    """Put a frame in the packet-out ring; ``in_port`` is the engine's number or -1. False when it is full."""
    if not 14 <= len(frame) <= FRAME_MAX:
        raise ValueError(f"packet-out of {len(frame)} bytes: a frame has 14 to {FRAME_MAX}")
    record = int(record_reserve.py_func(ring, FRAME_RECORD.itemsize + len(frame)))
    if not record:
        return False
    row = records(FRAME_RECORD, record)[0]
    row["port"], row["target"], row["kind"] = in_port, out.port, out.kind
    row["pipeline"], row["program"] = out.pipeline, out.program
    row["wire_length"] = row["length"] = len(frame)
    ctypes.memmove(record + FRAME_RECORD.itemsize, frame, len(frame))
    record_commit.py_func(ring)
    return True
