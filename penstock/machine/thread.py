"""What plain Python must do with real instructions: read the cycle counter as workers do, and order memory."""

from __future__ import annotations

import time

from penstock.machine.clock import cycles
from penstock.machine.kernels import entry
from penstock.machine.ops import fence


@entry("int64()")
def read_cycles():
    """The cycle counter."""
    return cycles()


@entry("int64()")
def full_fence():
    """Order this thread's stores before its later loads."""
    return fence()


def measure_cycles_hz(seconds: float = 0.02) -> int:
    """Cycles per second of the cycle counter, measured against the wall clock."""
    read_cycles()  # loads its code: not to be timed
    started, first = time.perf_counter_ns(), read_cycles()
    time.sleep(seconds)
    last, ended = read_cycles(), time.perf_counter_ns()
    return round((last - first) * 1_000_000_000 / (ended - started))
