"""Fills the compile cache: every compiled function of the data plane, with progress."""

from __future__ import annotations

from collections.abc import Callable

import penstock.datapath.worker
import penstock.engine.workers
import penstock.ports
from penstock.machine import compile_all

ENTRY_MODULES = (penstock.datapath.worker, penstock.engine.workers, penstock.ports)


def warm(report: Callable[[int, int, str], None]) -> int:
    """Load or compile all entries; ``report(done, total, name)`` before each. Returns misses."""
    return compile_all(report)
