"""Checksums the slow way: RFC 1071's definition over big-endian words, CRC-32C (RFC 9260 appendix A) bit by bit."""

from __future__ import annotations

CASTAGNOLI = 0x1EDC6F41


def ones_sum(data: bytes) -> int:
    """The 16-bit ones' complement sum; an odd last byte is the upper half of a word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The Internet checksum, as the standards write the number."""
    return ones_sum(data) ^ 0xFFFF


def pseudo(src: bytes, dst: bytes, proto: int, size: int) -> bytes:
    """The pseudo header of RFC 768 (4-byte addresses) or RFC 8200 section 8.1 (16-byte ones)."""
    if len(src) == 4:
        return src + dst + bytes([0, proto]) + size.to_bytes(2, "big")
    return src + dst + size.to_bytes(4, "big") + bytes([0, 0, 0, proto])


def _reflect(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def crc32c(data: bytes) -> int:
    """CRC-32C with the register all ones at first and complemented at last."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= _reflect(byte, 8) << 24
        for _ in range(8):
            crc = crc << 1 ^ (CASTAGNOLI if crc >> 31 else 0)
            crc &= 0xFFFFFFFF
    return _reflect(crc, 32) ^ 0xFFFFFFFF


def sctp(packet: bytes) -> bytes:
    """The four checksum bytes of an SCTP packet: the CRC, least significant byte first."""
    return crc32c(packet[:8] + bytes(4) + packet[12:]).to_bytes(4, "little")
