"""Memory for kernels under test: bytes at an address, with room around them, and 64-bit words as kernels take them."""

from __future__ import annotations

import ctypes

ROOM = 256
FILLER = 0xA5


class Memory:
    """A mutable copy of ``data`` at ``address``, with ROOM bytes of filler on both sides that must not change."""

    def __init__(self, data: bytes, *, size: int | None = None, align: int = 0) -> None:
        self.size = len(data) if size is None else size
        whole = self.size + 2 * ROOM + 64
        self._block = ctypes.create_string_buffer(bytes([FILLER]) * whole, whole)
        base = ctypes.addressof(self._block)
        self._start = (base + 63) // 64 * 64 - base + ROOM + align
        self.address = base + self._start
        ctypes.memmove(self.address, data, len(data))

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """``size`` bytes from ``offset`` (which may be negative) on."""
        return ctypes.string_at(self.address + offset, self.size - offset if size is None else size)

    def untouched(self, before: int = 0, after: int = 0) -> bool:
        """Whether the filler is as it was, but for ``before`` bytes in front of the data and ``after`` bytes behind."""
        front = self._block.raw[: self._start - before]
        back = self._block.raw[self._start + self.size + after :]
        return set(front + back) <= {FILLER}


def word(data: bytes) -> int:
    """Up to 8 bytes as a load reads them: little-endian, 8 bytes as a signed number."""
    return int.from_bytes(data, "little", signed=len(data) == 8)
