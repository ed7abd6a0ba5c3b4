"""The Internet checksum (RFC 1071): over memory, over a frame in two parts, mended for changes; and SCTP's CRC-32C.

A *sum* is a 16-bit ones' complement sum in memory order: what adding up the bytes as little-endian words gives,
folded to 0..0xffff. Ones' complement sums come out the same in either byte order, so nothing is swapped: sums are
added to, and checksums stored, as raw words. A checksum is the complement of a sum. Pure functions of the memory they
are pointed at, usable by any thread.
"""

from __future__ import annotations

import struct

from penstock.machine import bswap16, kernel, load8, load16, load32, load64, ltu, shr, store16, store32
from penstock.machine.crc import crc32c_8, crc32c_64
from penstock.packet.protocols import SCTP_CHECKSUM

CRC_START = 0xFFFFFFFF


@kernel
def fold(total):
    """A 64-bit ones' complement total (not negative) folded to a 16-bit sum."""
    total = (total & 0xFFFFFFFF) + shr(total, 32)
    total = (total & 0xFFFF) + (shr(total, 16) & 0xFFFF) + shr(total, 32)
    total = (total & 0xFFFF) + shr(total, 16)
    return (total & 0xFFFF) + shr(total, 16)


def words_sum(data: bytes) -> int:
    """The sum of bytes, for plain Python; an odd last byte counts as if a zero followed it."""
    total = sum(struct.unpack(f"<{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@kernel
def sum_memory(at, size):
    """The sum of ``size`` bytes at any address; an odd last byte counts as if a zero followed it."""
    even = 0
    odd = 0
    carries = 0
    end = at + size
    while at + 32 <= end:
        first = load64(at)
        second = load64(at + 8)
        third = load64(at + 16)
        fourth = load64(at + 24)
        even += first
        carries += ltu(even, first)
        odd += second
        carries += ltu(odd, second)
        even += third
        carries += ltu(even, third)
        odd += fourth
        carries += ltu(odd, fourth)
        at += 32
    rest = 0
    while at + 4 <= end:
        rest += load32(at)
        at += 4
    if at + 2 <= end:
        rest += load16(at)
        at += 2
    if at < end:
        rest += load8(at)
    rest += (even & 0xFFFFFFFF) + shr(even, 32)
    rest += (odd & 0xFFFFFFFF) + shr(odd, 32)
    return fold(rest + carries)


@kernel
def join(first, first_size, second):
    """The sum of two pieces that follow one another: behind an odd length, every byte of the second changes sides."""
    if first_size & 1:
        second = bswap16(second)
    return fold(first + second)


@kernel
def sum_parts(head, head_size, tail, tail_size):
    """The sum of ``head_size`` bytes at ``head`` followed by ``tail_size`` bytes at ``tail``."""
    return join(sum_memory(head, head_size), head_size, sum_memory(tail, tail_size))


@kernel
def pseudo_ipv4(l3, proto, size):
    """The sum of the pseudo header (RFC 793, RFC 768) of the IPv4 header at ``l3`` for ``size`` bytes of layer 4."""
    return fold(load32(l3 + 12) + load32(l3 + 16) + bswap16(proto) + bswap16(size))


@kernel
def pseudo_ipv6(l3, final, proto, size):
    """The sum of the pseudo header (RFC 8200 section 8.1) of the IPv6 header at ``l3`` for ``size`` bytes of layer 4.

    ``final`` is the offset from ``l3`` of the final destination if a routing header holds it, else 0.
    """
    total = sum_memory(l3 + 8, 32)
    if final:
        total = sum_memory(l3 + 8, 16) + sum_memory(l3 + final, 16)
    return fold(total + bswap16(proto) + bswap16(shr(size, 16)) + bswap16(size & 0xFFFF))


@kernel
def update16(checksum, old, new):
    """The checksum after a raw 16-bit word that it covers changed (RFC 1624 equation 3)."""
    return ~fold((~checksum & 0xFFFF) + (~old & 0xFFFF) + (new & 0xFFFF)) & 0xFFFF


@kernel
def update32(checksum, old, new):
    """The checksum after a raw 32-bit word that it covers changed."""
    return ~fold((~checksum & 0xFFFF) + (~old & 0xFFFFFFFF) + (new & 0xFFFFFFFF)) & 0xFFFF


@kernel
def update_sum(total, old, new):
    """The sum after a raw word of up to 32 bits that it covers changed: for partial checksums, which are sums."""
    return fold((total & 0xFFFF) + (~old & 0xFFFFFFFF) + (new & 0xFFFFFFFF))


@kernel
def ipv4_header_checksum(l3):
    """The checksum that the IPv4 header at ``l3`` should carry, as a raw word."""
    size = (load8(l3) & 15) * 4
    return ~fold(sum_memory(l3, size) + (~load16(l3 + 10) & 0xFFFF)) & 0xFFFF


@kernel
def ipv4_header_ok(l3):
    """1 when the IPv4 header at ``l3`` carries the right checksum."""
    return int(sum_memory(l3, (load8(l3) & 15) * 4) == 0xFFFF)


@kernel
def crc_memory(crc, at, size):
    """The CRC-32C state after ``size`` bytes at ``at``."""
    end = at + size
    while at + 8 <= end:
        crc = crc32c_64(crc, load64(at))
        at += 8
    while at < end:
        crc = crc32c_8(crc, load8(at))
        at += 1
    return crc


@kernel
def sctp_checksum(head, head_size, tail, tail_size):
    """The CRC-32C (RFC 9260 section 6.8) of an SCTP packet in two parts, its own field counted as zero; raw word.

    The 12-byte common header must lie in the head.
    """
    crc = crc_memory(CRC_START, head, SCTP_CHECKSUM)
    for _ in range(4):
        crc = crc32c_8(crc, 0)
    crc = crc_memory(crc, head + SCTP_CHECKSUM + 4, head_size - SCTP_CHECKSUM - 4)
    return crc_memory(crc, tail, tail_size) ^ 0xFFFFFFFF


@kernel
def finish_checksum(head, head_len, tail, tail_len, csum_start, csum_offset):
    """Complete a partial checksum as virtio-net and the kernel hand it over; 1, or 0 when its place is not in the head.

    The field holds the sum of the pseudo header; everything from ``csum_start`` to the end of the frame is added. A
    result of 0 is stored as 0xffff, which UDP needs and every other protocol takes as equal. An offset of 8 is SCTP's:
    the kernel marks its CRC-32C the same way.
    """
    size = head_len - csum_start
    if csum_start < 0 or csum_offset < 0 or csum_offset + 2 > size:
        return 0
    at = head + csum_start
    if csum_offset == SCTP_CHECKSUM:
        if size < SCTP_CHECKSUM + 4:
            return 0
        store32(at + SCTP_CHECKSUM, sctp_checksum(at, size, tail, tail_len))
        return 1
    checksum = ~sum_parts(at, size, tail, tail_len) & 0xFFFF
    if checksum == 0:
        checksum = 0xFFFF
    store16(at + csum_offset, checksum)
    return 1


@kernel
def checksum_ok(pseudo, head, head_size, tail, tail_size):
    """1 when the TCP, UDP or ICMPv6 message in two parts agrees with its checksum.

    ``pseudo`` is the sum of its pseudo header; for ICMP it is 0.
    A UDP checksum of zero means that there is none: that is for the caller to see.
    """
    return int(fold(pseudo + sum_parts(head, head_size, tail, tail_size)) == 0xFFFF)


@kernel
def sctp_ok(head, head_size, tail, tail_size):
    """1 when the SCTP packet in two parts carries the right CRC-32C."""
    return int(load32(head + SCTP_CHECKSUM) == sctp_checksum(head, head_size, tail, tail_size))
