"""Capture files as tests write them: every variant of pcap and pcapng, field by field."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def pcap(frames: Sequence[bytes], order: str = "<", nanoseconds: bool = True, link: int = 1) -> bytes:
    """A pcap file of frames captured at 1, 2, 3 ... seconds and 5 units."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)]
    for second, frame in enumerate(frames, 1):
        parts.append(struct.pack(f"{order}IIII", second, 5, len(frame), len(frame)) + frame)
    return b"".join(parts)


def block(order: str, kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(padded) + 12)
    return struct.pack(f"{order}I", kind) + length + padded + length


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", link: int = 1, snaplen: int = 0, resolution: int | None = None) -> bytes:
    options = b"" if resolution is None else struct.pack(f"{order}HHB3xHH", 9, 1, resolution, 0, 0)
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, snaplen) + options)


def enhanced(frame: bytes, ticks: int = 0, index: int = 0, order: str = "<") -> bytes:
    fixed = struct.pack(f"{order}IIIII", index, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, fixed + frame)


def simple(frame: bytes, order: str = "<") -> bytes:
    return block(order, 3, struct.pack(f"{order}I", len(frame)) + frame)


def obsolete(frame: bytes, ticks: int = 0, index: int = 0, order: str = "<") -> bytes:
    fixed = struct.pack(f"{order}HHIIII", index, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 2, fixed + frame)
