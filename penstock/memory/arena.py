"""The arena: one memfd mapped at the same fixed address in every process, so that pointers in it mean the same
everywhere.

Layout: a header (magic, size, address of the root struct, table of guest memory), then allocations aligned to cache
lines. Only the engine's main thread allocates and frees; the bookkeeping is in its private memory and dies with it,
as the arena does. Huge pages serve it when enough of them are free, plain pages otherwise.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
from pathlib import Path

import numpy as np

from penstock.machine import records

ARENA_BASE = 0x20_0000_0000  # below executables, heaps and libraries of every usual layout, and within 39 bits
MAGIC = 0x50454E53544F434B
LINE = 64
HUGE_PAGE = 2 << 20
MAP_FIXED_NOREPLACE = 0x100000
HUGE_PAGE_DIRECTORY = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")

HEADER = np.dtype(
    [("magic", "i8"), ("size", "i8"), ("root", "i8"), ("page_bytes", "i8"), ("mappings", "i8")], align=True
)

LOG = logging.getLogger("penstock.memory")

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class ArenaError(Exception):
    """The arena cannot be made, mapped, or is full."""


def free_huge_bytes() -> int:
    """Bytes of 2 MB huge pages that nobody has taken or reserved."""
    try:
        free, reserved = (
            int((HUGE_PAGE_DIRECTORY / name).read_text()) for name in ("free_hugepages", "resv_hugepages")
        )
    except FileNotFoundError:
        return 0
    return (free - reserved) * HUGE_PAGE


def map_at(base: int, size: int, fd: int) -> None:
    """Map the memory behind ``fd`` at a fixed address. Raises ArenaError."""
    flags = mmap.MAP_SHARED | MAP_FIXED_NOREPLACE
    if _LIBC.mmap(base, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0) != base:
        errno = ctypes.get_errno()
        raise ArenaError(
            f"{size >> 20} MB of shared memory cannot be mapped at {base:#x}: {os.strerror(errno)}"
            + (" (this process has such memory already)" if errno == 17 else "")
        )


def unmap_at(base: int, size: int) -> None:
    """Undo ``map_at``. Nothing that views this memory may be used afterwards."""
    _LIBC.munmap(base, size)


class Arena:
    """A mapped arena. ``create`` makes and owns one; ``attach`` maps one made by another process."""

    def __init__(self, fd: int, size: int, page_bytes: int) -> None:
        self.fd = fd
        self.size = size
        self._next = ARENA_BASE + max(LINE, HEADER.itemsize)
        self._sizes: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._map()
        self.header = records(HEADER, ARENA_BASE)[0]
        self.page_bytes = page_bytes or int(self.header["page_bytes"])

    @classmethod
    def create(cls, size: int, huge_pages: bool = True) -> Arena:
        """A new, zeroed arena of ``size`` bytes, on huge pages if ``huge_pages`` and enough are free."""
        size = -(-size // HUGE_PAGE) * HUGE_PAGE
        if huge_pages and free_huge_bytes() >= size:
            try:
                return cls._create(size, HUGE_PAGE, os.MFD_HUGETLB)
            except (ArenaError, OSError):
                LOG.warning("huge pages were free a moment ago and are not now: the arena is on plain pages")
        return cls._create(size, mmap.PAGESIZE, 0)

    @classmethod
    def _create(cls, size: int, page_bytes: int, flags: int) -> Arena:
        fd = os.memfd_create("penstock-arena", os.MFD_CLOEXEC | flags)
        os.ftruncate(fd, size)
        arena = cls(fd, size, page_bytes)
        arena.header["size"], arena.header["page_bytes"] = size, arena.page_bytes
        arena.header["magic"] = MAGIC
        return arena

    @classmethod
    def attach(cls, fd: int) -> Arena:
        """Map the arena behind ``fd`` (kept and closed by the arena)."""
        arena = cls(fd, os.fstat(fd).st_size, 0)
        if arena.header["magic"] != MAGIC:
            arena.close()
            raise ArenaError(f"file descriptor {fd} is not a Penstock arena: wrong magic number")
        return arena

    def _map(self) -> None:
        try:
            map_at(ARENA_BASE, self.size, self.fd)
        except ArenaError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Unmap and close. Nothing that views this memory may be used afterwards."""
        unmap_at(ARENA_BASE, self.size)
        os.close(self.fd)

    @property
    def used(self) -> int:
        """Bytes handed out so far, free lists included."""
        return self._next - ARENA_BASE

    def allocate(self, size: int, align: int = LINE) -> int:
        """The address of ``size`` zeroed bytes, aligned to a cache line or more. Raises ArenaError when full."""
        size = -(-max(size, 1) // LINE) * LINE
        waiting = self._free.get(size, [])
        for index, address in enumerate(waiting):
            if address % align == 0:
                del waiting[index]
                ctypes.memset(address, 0, size)
                self._sizes[address] = size
                return address
        address = -(-self._next // align) * align
        if address + size > ARENA_BASE + self.size:
            raise ArenaError(
                f"arena is full: {size} bytes asked for, {ARENA_BASE + self.size - self._next} of {self.size} left"
            )
        self._next = address + size
        self._sizes[address] = size
        return address

    def free(self, address: int) -> None:
        """Give an allocation back, to be reused for the same size. No worker may still see it."""
        self._free.setdefault(self._sizes.pop(address), []).append(address)
