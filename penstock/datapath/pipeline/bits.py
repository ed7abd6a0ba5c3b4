"""Runs of bits anywhere in a flow key, as numbers: what moves, registers and the stack are made of.

Bits are counted from the most significant of the key's first byte, as they stand on the wire.
"""

from __future__ import annotations

from penstock.machine import kernel, load8, load64be, shr, store8

WORD = 64


@kernel
def read_bits(at, start, count):
    """The number in ``count`` bits (1 to 64) from bit ``start``; the upper bits of the result are 0."""
    place = at + (start >> 3)
    skip = start & 7
    value = load64be(place)
    if skip != 0:
        value = value << skip | shr(load8(place + 8), 8 - skip)
    return value if count == WORD else shr(value, WORD - count)


@kernel
def write_bits(at, start, count, value):
    """Put the low ``count`` bits (1 to 64) of a number at bit ``start``."""
    # From the end: whole bytes as far as they go, and what of a byte belongs to the run at either end.
    end = start + count
    left = count
    while left > 0:
        last = (end - 1) >> 3
        low = 7 - (end - 1 & 7)
        room = 8 - low
        part = room if room < left else left
        mask = ((1 << part) - 1) << low
        cell = at + last
        store8(cell, load8(cell) & ~mask | value << low & mask)
        value = shr(value, part)
        end -= part
        left -= part
    return 0
