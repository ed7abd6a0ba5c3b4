"""The dirty log: a bit for each 4 KB page of guest memory, set by a back end that wrote there. Main thread."""

from __future__ import annotations

import mmap
import os

import numpy as np

PAGE = 4096
BITS = 8


class DirtyLog:
    """A log in a memfd that covers guest addresses below ``end``."""

    def __init__(self, end: int) -> None:
        self.size = -(-end // (PAGE * BITS * mmap.PAGESIZE)) * mmap.PAGESIZE
        self.fd = os.memfd_create("penstock-dirty-log", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    def pages(self) -> list[int]:
        """Numbers of the pages (guest address // 4096) that were written since the log was made."""
        octets = np.frombuffer(self._map, np.uint8)
        found = np.flatnonzero(octets)
        return [int(at) * BITS + bit for at in found for bit in range(BITS) if octets[at] >> bit & 1]
