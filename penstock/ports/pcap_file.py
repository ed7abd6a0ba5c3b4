"""Capture files: find the frames in a pcap or pcapng file, and what a pcap file that we write looks like.

Formats: pcap (draft-ietf-opsawg-pcap) with microsecond or nanosecond times in either byte order; pcapng
(draft-ietf-opsawg-pcapng) with enhanced, simple and obsolete packet blocks, several sections and interfaces. Only
Ethernet frames (link type 1) are taken. Every length is checked against the file; what does not fit raises CaptureError
with the offset where it is. Plain Python without side effects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ETHERNET = 1
PCAP_MICROSECONDS, PCAP_NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
PCAP_HEADER, PCAP_RECORD = 24, 16
SNAPLEN = 262144
SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
OPTION_END, OPTION_RESOLUTION = 0, 9

# What a file that we write begins with: nanoseconds, this machine's byte order.
OUR_HEADER = struct.pack("=IHHiIII", PCAP_NANOSECONDS, 2, 4, 0, 0, SNAPLEN, ETHERNET)


class CaptureError(ValueError):
    """The file is not a capture of Ethernet frames, or is damaged: the text names the offset."""


class CapturedFrame(NamedTuple):
    """Where a frame's bytes lie in the file, and when it was captured (nanoseconds of the Unix epoch)."""

    offset: int
    length: int
    time_ns: int


@dataclass
class _Section:
    """What blocks of a pcapng section refer to."""

    order: str
    interfaces: list[tuple[int, int, int]] = field(default_factory=list)  # link type, snap length, ticks per second


def frames(data: bytes | memoryview) -> Iterator[CapturedFrame]:
    """The frames of a capture file, in order. Raises CaptureError at the first thing that is wrong."""
    if len(data) < 4:
        raise CaptureError(f"offset 0: {len(data)} bytes are too few for a capture file")
    for order in "<>":
        (magic,) = struct.unpack_from(f"{order}I", data)
        if magic in (PCAP_MICROSECONDS, PCAP_NANOSECONDS):
            return _pcap_frames(data, order, 1 if magic == PCAP_NANOSECONDS else 1000)
        if magic == SECTION:
            return _pcapng_frames(data)
    (magic,) = struct.unpack_from(">I", data)
    raise CaptureError(f"offset 0: {magic:#010x} begins neither a pcap nor a pcapng file")


def _pcap_frames(data: bytes | memoryview, order: str, unit_ns: int) -> Iterator[CapturedFrame]:
    if len(data) < PCAP_HEADER:
        raise CaptureError(f"offset {len(data)}: the file ends inside its header of {PCAP_HEADER} bytes")
    (link,) = struct.unpack_from(f"{order}I", data, 20)
    if link & 0xFFFF != ETHERNET:  # the upper half tells of frame check sequences
        raise CaptureError(f"offset 20: link type {link & 0xFFFF}, where only {ETHERNET} (Ethernet) can be replayed")
    record = struct.Struct(f"{order}IIII")
    position = PCAP_HEADER
    while position < len(data):
        if position + PCAP_RECORD > len(data):
            raise CaptureError(f"offset {position}: the file ends inside a record's header of {PCAP_RECORD} bytes")
        seconds, fraction, length, _wire = record.unpack_from(data, position)
        start = position + PCAP_RECORD
        if length > len(data) - start:
            raise CaptureError(f"offset {position}: a frame of {length} bytes, where {len(data) - start} are left")
        yield CapturedFrame(start, length, seconds * 1_000_000_000 + fraction * unit_ns)
        position = start + length


def _pcapng_frames(data: bytes | memoryview) -> Iterator[CapturedFrame]:
    section = _Section("<")
    position = 0
    while position < len(data):
        if position + 12 > len(data):
            raise CaptureError(f"offset {position}: the file ends inside a block's header")
        if struct.unpack_from("<I", data, position)[0] == SECTION:  # reads the same in both byte orders
            section = _Section(_byte_order(data, position))
        kind, length = struct.unpack_from(f"{section.order}II", data, position)
        if length < 12 or length % 4 or length > len(data) - position:
            raise CaptureError(f"offset {position}: a block of {length} bytes, where {len(data) - position} are left")
        (again,) = struct.unpack_from(f"{section.order}I", data, position + length - 4)
        if again != length:
            raise CaptureError(f"offset {position}: the block's length is {length} at its start and {again} at its end")
        body, end = position + 8, position + length - 4
        if kind == INTERFACE:
            section.interfaces.append(_interface(data, body, end, section.order))
        elif kind in (ENHANCED_PACKET, SIMPLE_PACKET, OLD_PACKET):
            yield _packet(data, kind, body, end, section)
        position += length


def _byte_order(data: bytes | memoryview, position: int) -> str:
    for order in "<>":
        if struct.unpack_from(f"{order}I", data, position + 8)[0] == BYTE_ORDER_MAGIC:
            return order
    raise CaptureError(f"offset {position + 8}: no byte-order magic {BYTE_ORDER_MAGIC:#x} in the section header")


def _interface(data: bytes | memoryview, body: int, end: int, order: str) -> tuple[int, int, int]:
    """Link type, snap length and ticks per second of an interface description block."""
    if end - body < 8:
        raise CaptureError(f"offset {body}: an interface description of {end - body} bytes, where 8 are the least")
    link, _reserved, snaplen = struct.unpack_from(f"{order}HHI", data, body)
    ticks = 1_000_000
    position = body + 8
    while position + 4 <= end:
        code, length = struct.unpack_from(f"{order}HH", data, position)
        if code == OPTION_END:
            break
        if position + 4 + length > end:
            raise CaptureError(f"offset {position}: an option of {length} bytes that its block does not hold")
        if code == OPTION_RESOLUTION and length == 1:
            exponent = data[position + 4]
            ticks = 2 ** (exponent & 0x7F) if exponent & 0x80 else 10**exponent
        position += 4 + length + -length % 4
    return link, snaplen, ticks


def _packet(data: bytes | memoryview, kind: int, body: int, end: int, section: _Section) -> CapturedFrame:
    """The frame in a packet block."""
    fixed = 4 if kind == SIMPLE_PACKET else 20
    if end - body < fixed:
        raise CaptureError(f"offset {body}: a packet block of {end - body} bytes, where {fixed} are the least")
    index, ticks_now = 0, 0
    if kind == SIMPLE_PACKET:
        (length,) = struct.unpack_from(f"{section.order}I", data, body)
    else:
        layout = "IIIII" if kind == ENHANCED_PACKET else "HxxIIII"
        index, high, low, length, _wire = struct.unpack_from(f"{section.order}{layout}", data, body)
        ticks_now = high << 32 | low
    if index >= len(section.interfaces):
        raise CaptureError(f"offset {body}: a frame of interface {index}, which is not described before it")
    link, snaplen, ticks = section.interfaces[index]
    if link != ETHERNET:
        raise CaptureError(f"offset {body}: link type {link}, where only {ETHERNET} (Ethernet) can be replayed")
    if kind == SIMPLE_PACKET and snaplen:
        length = min(length, snaplen)
    if length > end - body - fixed:
        raise CaptureError(f"offset {body}: a frame of {length} bytes in a block that has {end - body - fixed} for it")
    return CapturedFrame(body + fixed, length, ticks_now * 1_000_000_000 // ticks)


def whole_length(data: bytes | memoryview) -> int:
    """Bytes of a file of ours up to the end of its last whole record: what an interrupted writer left good."""
    if bytes(data[: len(OUR_HEADER)]) != OUR_HEADER:
        raise CaptureError("offset 0: not a pcap file with nanosecond times as this switch writes them")
    end = PCAP_HEADER
    try:
        for frame in _pcap_frames(data, "=", 1):
            end = frame.offset + frame.length
    except CaptureError:
        return end
    return end
