"""Surviving a front end that cuts off the file behind its guest's memory.

Touching such memory raises SIGBUS in whichever thread does. The handler, compiled code that uses nothing of Python,
puts empty memory in place of the whole mapping, and the thread goes on; the port's next check sees that it was lost and
ends the connection. A SIGBUS anywhere else ends the process, as it would have.

The table of mappings is in the arena, whose header says where, since a signal handler is handed nothing: the main
thread fills and empties rows (``start`` last, or first), the handler reads them and sets ``lost``.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from functools import cache
from typing import Any

import numpy as np

from penstock.machine import entry, load64, load_acquire, offset, records, store_release, sys_mmap, sys_signal, view
from penstock.memory import ARENA_BASE, HEADER, Arena

MAPPING = np.dtype([("start", "i8"), ("end", "i8"), ("owner", "i8"), ("lost", "i8")], align=True)
MAPPING_BYTES = MAPPING.itemsize
MAPPINGS_MAX = 8192
TABLE_AT = ARENA_BASE + offset(HEADER, "mappings")
START, LOST = offset(MAPPING, "start"), offset(MAPPING, "lost")
SIGBUS = int(signal.SIGBUS)
SI_ADDR = 16  # of siginfo_t
SA_SIGINFO = 4
MAP_FIXED = 0x10
REPLACEMENT = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

mapping_at = view(MAPPING)


@entry("int64(int64, int64, int64)")
def replace_lost(_number, info, _context):
    """The handler: put empty memory where a lost mapping was; else let the process die of the signal."""
    address = load64(info + SI_ADDR)
    table = load64(TABLE_AT)
    for index in range(MAPPINGS_MAX):
        row = table + index * MAPPING_BYTES
        start = load_acquire(row)
        m = mapping_at(row)
        if start != 0 and address >= start and address < m.end:
            store_release(row + LOST, 1)
            if sys_mmap(start, m.end - start, READ_WRITE, REPLACEMENT, -1, 0) == start:
                return 0
    return sys_signal(SIGBUS, 0)


class _Action(ctypes.Structure):
    """struct sigaction of the C library on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@cache
def _install() -> None:
    """Have the handler called from now on in this process. Raises OSError."""
    action = _Action(handler=replace_lost.address, flags=SA_SIGINFO)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaction(SIGBUS, ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), "no handler for SIGBUS can be installed")


class Mappings:
    """The mappings of guests' memory in this process, in its arena's table."""

    def __init__(self, arena: Arena) -> None:
        if not arena.header["mappings"]:
            arena.header["mappings"] = arena.allocate(MAPPINGS_MAX * MAPPING_BYTES)
        self._table = int(arena.header["mappings"])
        self._rows: Any = records(MAPPING, self._table, MAPPINGS_MAX)
        _install()

    def watch(self, start: int, size: int, owner: int) -> None:
        """Survive the loss of this mapping. Raises OSError when too many are watched."""
        free = np.flatnonzero(self._rows["start"] == 0)
        if not free.size:
            raise OSError(f"more than {MAPPINGS_MAX} memory regions of guests")
        row = self._rows[int(free[0])]
        row["end"], row["owner"], row["lost"] = start + size, owner, 0
        self._set_start(int(free[0]), start)

    def forget(self, start: int) -> None:
        """The mapping is going to be unmapped; nothing happens when it is not watched."""
        for index in np.flatnonzero(self._rows["start"] == start):
            self._set_start(int(index), 0)

    def _set_start(self, index: int, start: int) -> None:
        store_release(self._table + index * MAPPING_BYTES + START, start)

    def was_lost(self, owner: int) -> bool:
        """Whether any mapping of this owner was lost."""
        rows = self._rows
        return bool(((rows["start"] != 0) & (rows["owner"] == owner) & (rows["lost"] != 0)).any())
