"""The virtio-net header's rules, said the obvious way."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("=BBHHHH")


class Offload(NamedTuple):
    """What a header means for its frame; the names are PACKET's."""

    flags: int = 0
    gso_type: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


def transport_header(head: bytes, start: int, gso_type: int) -> int | None:
    """Length of the transport header at ``start``; None when it is not wholly there."""
    if gso_type in (1, 4):
        if len(head) < start + 20:
            return None
        length = head[start + 12] // 16 * 4
        if length < 20:
            return None
    else:
        length = 8
    return length if len(head) >= start + length else None


def parse(header: bytes, head: bytes, tail: bytes) -> Offload | None:
    """The offload of a frame behind this header; None when the header contradicts the frame."""
    flags, kind, _header_length, size, start, place = HEADER.unpack(header)
    gso_type, ecn = kind & 0x7F, bool(kind & 0x80)
    if not flags & 1:
        if gso_type:
            return None
        return Offload(flags=2 if flags & 2 else 0)
    if start < 14 or start + place + 2 > len(head):
        return None
    plain = Offload(flags=1, csum_start=start, csum_offset=place)
    if gso_type == 0:
        return plain
    checksum_at = {1: 16, 4: 16, 3: 6, 5: 6}
    if gso_type not in checksum_at or place != checksum_at[gso_type]:
        return None
    if size < (8 if gso_type in (1, 4) else 1):
        return None
    transport = transport_header(head, start, gso_type)
    if transport is None:
        return None
    payload = len(head) + len(tail) - start - transport
    if gso_type == 5 and payload > 128 * size:
        return None
    if payload <= size:
        return plain
    return plain._replace(flags=1 | (4 if ecn and gso_type in (1, 4) else 0), gso_type=gso_type, gso_size=size)


def build(offload: Offload, head: bytes) -> bytes:
    """The header for a frame with this offload."""
    if not offload.flags & 1:
        return HEADER.pack(2 if offload.flags & 2 else 0, 0, 0, 0, 0, 0)
    if not offload.gso_type:
        return HEADER.pack(1, 0, 0, 0, offload.csum_start, offload.csum_offset)
    kind = offload.gso_type | (0x80 if offload.flags & 4 else 0)
    headers = offload.csum_start + (transport_header(head, offload.csum_start, offload.gso_type) or 0)
    return HEADER.pack(1, kind, headers, offload.gso_size, offload.csum_start, offload.csum_offset)
