"""Frames in the record rings between workers and the control process, as Python sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.datapath.layout import FRAME_RECORD, OUT_NORMAL, OUT_PORT
from penstock.machine import records
from penstock.memory import record_commit, record_peek, record_release, record_reserve

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


@dataclass(frozen=True)
class PacketIn:
    """A frame that a worker handed to the control process."""

    time_ns: int
    port: str
    wire_length: int
    data: bytes


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


def write_packet_out(ring: int, frame: bytes, in_port: int, target: int) -> bool:
    """Put a frame in the packet-out ring, for port ``target`` or (-1) NORMAL; False when it is full."""
    if not 14 <= len(frame) <= FRAME_MAX:
        raise ValueError(f"packet-out of {len(frame)} bytes: a frame has 14 to {FRAME_MAX}")
    record = int(record_reserve.py_func(ring, FRAME_RECORD.itemsize + len(frame)))
    if not record:
        return False
    row = records(FRAME_RECORD, record)[0]
    row["port"], row["target"] = in_port, target
    row["kind"] = OUT_NORMAL if target < 0 else OUT_PORT
    row["wire_length"] = row["length"] = len(frame)
    ctypes.memmove(record + FRAME_RECORD.itemsize, frame, len(frame))
    record_commit.py_func(ring)
    return True
