"""Huge pages for a while."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HUGE_PAGE_MB = 2
SPARE_MB = 512  # what the machine keeps for everything else
_PAGES = Path("/proc/sys/vm/nr_hugepages")


class HugePageError(Exception):
    """Huge pages cannot be had; the text says why."""


def _memory(name: str) -> int:
    """A figure of /proc/meminfo: kB, or pages."""
    found = re.search(rf"^{name}:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise HugePageError(f"/proc/meminfo has no {name}: this kernel has no huge pages")
    return int(found[1])


@contextmanager
def huge_pages(megabytes: int) -> Iterator[None]:
    """See that so many MB of huge pages are free; afterwards their number is what it was. Raises HugePageError."""
    before = int(_PAGES.read_text())
    missing = max(0, -(-megabytes // HUGE_PAGE_MB) - _memory("HugePages_Free"))
    available = _memory("MemAvailable") // 1024
    if missing * HUGE_PAGE_MB + SPARE_MB > available:
        raise HugePageError(
            f"{megabytes} MB of huge pages are needed beside {SPARE_MB} MB for the rest: "
            f"{available} MB of memory are available"
        )
    try:
        _PAGES.write_text(str(before + missing))
        free = _memory("HugePages_Free") * HUGE_PAGE_MB
        if free < megabytes:
            raise HugePageError(
                f"{free} MB of huge pages are free, {megabytes} MB are needed: "
                "memory is fragmented, or another program took them at once"
            )
        yield
    finally:
        _PAGES.write_text(str(before))
