"""Where each ring notes what it gave back last, in a file that outlives this process: a successor goes on from there.

Buffers are given back in the order they were taken, so one number a ring is enough: the word holds ``last_used``, the
wrap counter in bit 15, and PROGRESS_KNOWN. The file is ours, kept beside the other descriptors of a guest, or the
front end's inflight area (VHOST_USER_GET_INFLIGHT_FD), which it keeps for us and need not understand.
"""

from __future__ import annotations

import mmap
import os

from penstock.machine import sys_mmap, sys_munmap
from penstock.memory import Arena
from penstock.ports.vhost_user.lost_memory import Mappings
from penstock.ports.vhost_user.messages import ProtocolViolation

WORD_BYTES = 64  # a cache line a ring
SIZE_MAX = 1 << 30  # where it ends in its file


class Progress:
    """The words of a port's rings, mapped."""

    def __init__(self, rings: int, arena: Arena, owner: int) -> None:
        self._rings = rings
        self._mappings = Mappings(arena)
        self._owner = owner
        self.fd = -1
        self._mapping = (0, 0)
        self.offset = 0
        self.renew()

    @staticmethod
    def new_area(rings: int) -> tuple[int, int]:
        """A descriptor of a new file for so many rings, and its size."""
        size = rings * WORD_BYTES
        fd = os.memfd_create("penstock-progress", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return fd, size

    def renew(self) -> None:
        """Use a new file of our own: nothing was given back yet. No ring is in service."""
        fd, size = self.new_area(self._rings)
        self.use(fd, size, 0, self._rings)

    def use(self, fd: int, size: int, offset: int, rings: int) -> None:
        """Use this file; owns the descriptor. Raises ProtocolViolation when it is too short. No ring is in service."""
        have = os.fstat(fd).st_size
        if size < rings * WORD_BYTES or offset % 8 or offset + size > min(have, SIZE_MAX):
            os.close(fd)
            raise ProtocolViolation(
                f"inflight area of {size} bytes at offset {offset} in a file of {have} bytes is not for {rings} queues"
            )
        mapping = int(sys_mmap(0, offset + size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0))
        if mapping < 0:
            os.close(fd)
            raise ProtocolViolation(f"inflight area cannot be mapped: {os.strerror(-mapping)}")
        self._mappings.watch(mapping, offset + size, self._owner)
        self.close()
        self.fd, self._mapping, self.offset, self._used = fd, (mapping, offset + size), offset, rings

    def close(self) -> None:
        """Let the file go. No ring is in service."""
        if self.fd >= 0:
            self._mappings.forget(self._mapping[0])
            sys_munmap(*self._mapping)
            os.close(self.fd)
            self.fd = -1

    def word(self, ring: int) -> int:
        """The address of a ring's word; 0 for a ring that the area has no place for."""
        return self._mapping[0] + self.offset + ring * WORD_BYTES if ring < self._used else 0

    def to_json(self) -> dict[str, int]:
        return {"size": self._mapping[1] - self.offset, "offset": self.offset, "rings": self._used}
