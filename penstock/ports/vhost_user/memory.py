"""A guest's memory as this process maps it, and the table of it that workers translate addresses by.

The main thread's alone; workers see a REGIONS table that is replaced whole. A region is mapped when the front end tells
of it and unmapped when no worker can use it any more. The file behind a region must be long enough when it is mapped;
one that is cut off later makes the region lost (``lost_memory``), never the process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.machine import records, store_release, sys_madvise, sys_mmap, sys_munmap
from penstock.memory import Arena
from penstock.ports.vhost_user.layout import REGIONS, REGIONS_MAX, VHOST, VHOST_REGIONS
from penstock.ports.vhost_user.lost_memory import Mappings
from penstock.ports.vhost_user.messages import ProtocolViolation

ADDRESS_MAX = 1 << 62
MEMORY_MAX = 4 << 40  # of one guest: this process has 128 TB of addresses for all of them
MADV_DONTDUMP = 16


@dataclass(frozen=True)
class RegionSpec:
    """A region as the front end describes it: addresses in the guest and in the front end, bytes, place in the file."""

    guest: int
    size: int
    user: int
    file_offset: int

    def __str__(self) -> str:
        return f"memory region of {self.size} bytes at guest address {self.guest:#x}"


@dataclass
class Region:
    """A region and its mapping."""

    spec: RegionSpec
    fd: int
    mapping: int
    mapped_bytes: int
    host: int  # where the region's first byte is
    told: int = 1  # how often it was added: QEMU before 9 adds and removes each region once for every pair of queues

    def unmap(self) -> None:
        sys_munmap(self.mapping, self.mapped_bytes)
        os.close(self.fd)


def map_region(spec: RegionSpec, fd: int) -> Region:
    """Map a region of a file, whose descriptor is duplicated. Raises ProtocolViolation when it is not what it says."""
    if spec.size == 0:
        raise ProtocolViolation(f"{spec}: a region has at least one byte")
    for what, address in (("guest", spec.guest), ("front end's", spec.user), ("file", spec.file_offset)):
        if address + spec.size > ADDRESS_MAX:
            raise ProtocolViolation(f"{spec}: its end is beyond every {what} address: {address + spec.size:#x}")
    status = os.fstat(fd)
    if status.st_size < spec.file_offset + spec.size:
        raise ProtocolViolation(
            f"{spec} at offset {spec.file_offset}: its file has only {status.st_size} bytes"
            f" instead of {spec.file_offset + spec.size}"
        )
    page = max(status.st_blksize, mmap.PAGESIZE)  # of hugetlbfs: the huge page
    before = spec.file_offset % page
    length = -(-(before + spec.size) // page) * page
    access = mmap.PROT_READ | mmap.PROT_WRITE
    mapping = int(sys_mmap(0, length, access, mmap.MAP_SHARED, fd, spec.file_offset - before))
    if mapping < 0:
        raise ProtocolViolation(f"{spec} cannot be mapped: {os.strerror(-mapping)}")
    sys_madvise(mapping, length, MADV_DONTDUMP)  # guests' memory has no place in core dumps of the switch
    try:
        return Region(spec, os.dup(fd), mapping, length, mapping + before)
    except OSError:
        sys_munmap(mapping, length)
        raise


class GuestMemory:
    """The regions of one guest. ``quiesce`` returns when no worker uses what it could use before."""

    def __init__(self, arena: Arena, vhost: int, quiesce: Callable[[], None]) -> None:
        self._arena = arena
        self._address = vhost
        self._record: Any = records(VHOST, vhost)[0]
        self._quiesce = quiesce
        self._mappings = Mappings(arena)
        self.regions: list[Region] = []
        self._table = self._new_table([])
        self._publish(self._table)

    def close(self) -> None:
        """Unmap everything. No ring is in service."""
        self.replace([], [])
        self._arena.free(self._table)

    def replace(self, specs: list[RegionSpec], fds: list[int]) -> None:
        """Have these regions and no others; the descriptors stay the caller's. Raises ProtocolViolation, OSError."""
        made: list[Region] = []
        try:
            for spec, fd in zip(specs, fds, strict=True):
                self._check_beside(spec, made)
                made.append(map_region(spec, fd))
        except (ProtocolViolation, OSError):
            for region in made:
                region.unmap()
            raise
        self._exchange(made)

    def add(self, spec: RegionSpec, fd: int) -> None:
        """Have one more region; the descriptor stays the caller's. Raises ProtocolViolation, OSError."""
        for region in self.regions:
            if region.spec == spec and os.path.samestat(os.fstat(fd), os.fstat(region.fd)):
                region.told += 1
                return
        self._check_beside(spec, self.regions)
        self._exchange([*self.regions, map_region(spec, fd)])

    def remove(self, spec: RegionSpec) -> None:
        """Let a region go, which addresses and size name. Raises ProtocolViolation when there is none like it."""
        named = (spec.guest, spec.user, spec.size)
        for region in self.regions:
            if (region.spec.guest, region.spec.user, region.spec.size) == named:
                region.told -= 1
                if region.told == 0:
                    self._exchange([each for each in self.regions if each is not region])
                return
        raise ProtocolViolation(f"{spec} cannot be removed: there is no such region")

    @property
    def lost(self) -> bool:
        """Whether a file behind the memory was cut off."""
        return self._mappings.was_lost(self._address)

    def find(self, user: int, length: int, what: str) -> tuple[int, int]:
        """Host and guest address of ``length`` bytes at a front end's address. Raises ProtocolViolation."""
        for region in self.regions:
            place = user - region.spec.user
            if 0 <= place <= region.spec.size - length:
                return region.host + place, region.spec.guest + place
        raise ProtocolViolation(f"{what} of {length} bytes at {user:#x} is not in one region of the guest's memory")

    def _check_beside(self, spec: RegionSpec, regions: list[Region]) -> None:
        if len(regions) == REGIONS_MAX:
            raise ProtocolViolation(f"{spec} is one more than {REGIONS_MAX}")
        if sum(region.spec.size for region in regions) + spec.size > MEMORY_MAX:
            raise ProtocolViolation(f"{spec}: more than {MEMORY_MAX >> 40} TB are too much for one guest")
        for other in (region.spec for region in regions):
            if spec.guest < other.guest + other.size and other.guest < spec.guest + spec.size:
                raise ProtocolViolation(f"{spec} overlaps the {other}")

    def _new_table(self, regions: list[Region]) -> int:
        table = self._arena.allocate(REGIONS.itemsize)
        row = records(REGIONS, table)[0]
        row["count"] = len(regions)
        for index, region in enumerate(regions):
            end = region.spec.guest + region.spec.size
            row["rows"][index] = (region.spec.guest, end, region.host - region.spec.guest, 0)
        return table

    def _publish(self, table: int) -> None:
        store_release(self._address + VHOST_REGIONS, table)
        self._record["generation"] += 1

    def _exchange(self, regions: list[Region]) -> None:
        """Have workers use these regions, then unmap those that are no longer there."""
        old_table, old = self._table, self.regions
        self._table, self.regions = self._new_table(regions), regions
        for region in regions:
            if region not in old:
                self._mappings.watch(region.mapping, region.mapped_bytes, self._address)
        self._publish(self._table)
        self._quiesce()
        self._arena.free(old_table)
        for region in old:
            if region not in regions:
                self._mappings.forget(region.mapping)
                region.unmap()
