"""What each machine operation computes, from Python's unbounded integers and bytes."""

from __future__ import annotations

from collections.abc import Callable

WORD = (1 << 64) - 1


def signed(value: int) -> int:
    """The int64 with the same low 64 bits."""
    value &= WORD
    return value - (1 << 64) if value >> 63 else value


def swapped(value: int, bits: int) -> int:
    return signed(int.from_bytes((value & ((1 << bits) - 1)).to_bytes(bits // 8, "little"), "big"))


def mix(x: int, y: int) -> int:
    product = (x & WORD) * (y & WORD)
    return signed(product ^ product >> 64)


def hash_word(x: int) -> int:
    golden, step = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
    return mix(mix(x ^ step, golden) ^ x, step) & (WORD >> 1)


def trailing_zeros(x: int) -> int:
    return next((bit for bit in range(64) if x >> bit & 1), 64)


def crc(state: int, data: bytes) -> int:
    """CRC-32C, bit by bit."""
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state


VALUES: dict[str, tuple[int, Callable[..., int]]] = {
    "bswap16": (1, lambda x: swapped(x, 16)),
    "bswap32": (1, lambda x: swapped(x, 32)),
    "bswap64": (1, lambda x: swapped(x, 64)),
    "ctz": (1, trailing_zeros),
    "clz": (1, lambda x: 64 - (x & WORD).bit_length()),
    "popcount": (1, lambda x: bin(x & WORD).count("1")),
    "hash64": (1, hash_word),
    "mulhi_mix": (2, mix),
    "ltu": (2, lambda a, b: int(a & WORD < b & WORD)),
}


def load(data: bytes, bits: int, big: bool = False) -> int:
    return signed(int.from_bytes(data[: bits // 8], "big" if big else "little"))


def store(value: int, bits: int, big: bool = False) -> bytes:
    return (value & ((1 << bits) - 1)).to_bytes(bits // 8, "big" if big else "little")
