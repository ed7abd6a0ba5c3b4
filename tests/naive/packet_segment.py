"""Segmentation the slow way: one frame as bytes in, the small frames as bytes out.

RFC 9293 and 3168 (what TCP segments carry), RFC 768 and the kernel's UDP_SEGMENT (each segment a datagram), RFC 791
and RFC 8200 section 4.5 (fragments).
"""

from __future__ import annotations

from naive.packet import walk_ipv6
from naive.packet_checksum import checksum
from naive.packet_edit import repair

TCPV4, UFO, TCPV6, UDP_L4 = 1, 3, 4, 5
FIN, PSH, CWR = 0x01, 0x08, 0x80


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def with_lengths(packet: bytes) -> bytes:
    """An IP packet whose length field says how long it is."""
    if packet[0] >> 4 == 4:
        return packet[:2] + len(packet).to_bytes(2, "big") + packet[4:]
    return packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]


def with_next_id(packet: bytes, number: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet
    ident = (int.from_bytes(packet[4:6], "big") + number) & 0xFFFF
    return packet[:4] + ident.to_bytes(2, "big") + packet[6:]


def tcp(packet: bytes, at: int, size: int) -> list[bytes]:
    header = at + (packet[at + 12] >> 4) * 4
    pieces = chunks(packet[header:], size)
    sequence, flags = int.from_bytes(packet[at + 4 : at + 8], "big"), packet[at + 13]
    segments = []
    for number, piece in enumerate(pieces):
        front = bytearray(packet[:header])
        front[at + 4 : at + 8] = ((sequence + number * size) & 0xFFFFFFFF).to_bytes(4, "big")
        last_only = FIN | PSH if number < len(pieces) - 1 else 0
        first_only = CWR if number else 0
        front[at + 13] = flags & ~last_only & ~first_only
        segments.append(with_next_id(bytes(front) + piece, number))
    return [repair(with_lengths(segment), partial=False) for segment in segments]


def udp(packet: bytes, at: int, size: int) -> list[bytes]:
    segments = []
    for number, piece in enumerate(chunks(packet[at + 8 :], size)):
        front = packet[: at + 4] + (8 + len(piece)).to_bytes(2, "big") + packet[at + 6 : at + 8]
        segments.append(repair(with_lengths(with_next_id(front + piece, number)), partial=False))
    return segments


def without_first_only_options(header: bytes) -> bytes:
    """An IPv4 header for a later fragment: options without the copied flag become no-operations."""
    options, kept = header[20:], b""
    while options and options[0] != 0:
        size = 1 if options[0] == 1 else options[1]
        kept += options[:size] if options[0] & 0x80 else b"\x01" * size
        options = options[size:]
    return header[:20] + kept + options


def fragment_ipv4(packet: bytes, size: int) -> list[bytes]:
    header = (packet[0] & 15) * 4
    whole = repair(with_lengths(packet), partial=False)
    pieces = chunks(whole[header:], size)
    if len(pieces) == 1:
        return [whole]
    fragments = []
    for number, piece in enumerate(pieces):
        front = whole[:header] if number == 0 else without_first_only_options(whole[:header])
        more = 0x2000 if number < len(pieces) - 1 else 0
        front = front[:6] + (number * size // 8 | more).to_bytes(2, "big") + front[8:]
        fragments.append(with_header_checksum(with_lengths(front + piece)))
    return fragments


def with_header_checksum(packet: bytes) -> bytes:
    header = (packet[0] & 15) * 4
    front = packet[:10] + b"\0\0" + packet[12:header]
    return front[:10] + checksum(front).to_bytes(2, "big") + front[12:] + packet[header:]


def fragment_ipv6(packet: bytes, size: int, ident: int) -> list[bytes]:
    whole = repair(with_lengths(packet), partial=False)
    walk = walk_ipv6(whole)
    pieces = chunks(whole[walk.fixed :], size)
    if len(pieces) == 1:
        return [whole]
    front = whole[: walk.place] + b"\x2c" + whole[walk.place + 1 : walk.fixed]
    fragments = []
    for number, piece in enumerate(pieces):
        offset = number * size | (number < len(pieces) - 1)
        middle = whole[walk.place : walk.place + 1] + b"\0" + offset.to_bytes(2, "big") + ident.to_bytes(4, "big")
        fragments.append(with_lengths(front + middle + piece))
    return fragments


def segment(frame: bytes, l3: int, l4: int, kind: int, size: int, ident: int = 0) -> list[bytes]:
    """The frames that a well-formed one with gso type ``kind`` and size ``size`` stands for."""
    packet, at = frame[l3:], l4 - l3
    if kind in (TCPV4, TCPV6):
        packets = tcp(packet, at, size)
    elif kind == UDP_L4:
        packets = udp(packet, at, size)
    elif packet[0] >> 4 == 4:
        packets = fragment_ipv4(packet, size & ~7)
    else:
        packets = fragment_ipv6(packet, size & ~7, ident)
    return [frame[:l3] + each for each in packets]
