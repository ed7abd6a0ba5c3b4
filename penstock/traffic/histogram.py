"""A histogram of latencies whose buckets are 1/64 of their power of two wide: any value is known to 1.6 percent.

Values are cycles, of at most 40 bits. A bucket is a word of the arena. Values up to 127 have a bucket each; from then
on every power of two has 64. ``bucket_of`` is the kernels' part; the thread of the loop writes, anybody may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.machine import clz, inlined, shr
from penstock.traffic.layout import TIME_BITS

STEP_BITS = 6
STEPS = 1 << STEP_BITS
BUCKETS = (TIME_BITS - STEP_BITS + 1) * STEPS


@inlined
def bucket_of(value):
    """The number of the bucket of a value that is not negative and has at most TIME_BITS bits."""
    excess = 63 - STEP_BITS - clz(value | STEPS)
    return excess * STEPS + shr(value, excess)


def lowest_of(bucket: int) -> int:
    """The smallest value of a bucket."""
    excess = max(0, bucket // STEPS - 1)
    return (bucket - excess * STEPS) << excess


@dataclass(frozen=True)
class Latency:
    """What the histogram says, in nanoseconds. Percentiles are the middle of their bucket."""

    count: int
    min: float
    mean: float
    median: float
    p99: float
    p999: float
    max: float


def summary(
    counts: np.ndarray[tuple[int], np.dtype[np.int64]], total: int, least: int, most: int, hz: int
) -> Latency | None:
    """The latencies of a histogram; None when nothing was measured. ``total``, ``least`` and ``most`` are exact."""
    count = int(counts.sum())
    if count == 0:
        return None
    nanoseconds = 1e9 / hz
    median, p99, p999 = (
        min(max(value, least), most) * nanoseconds for value in percentiles(counts, (0.5, 0.99, 0.999))
    )
    return Latency(count, least * nanoseconds, total / count * nanoseconds, median, p99, p999, most * nanoseconds)


def percentiles(counts: np.ndarray[tuple[int], np.dtype[np.int64]], parts: Sequence[float]) -> list[float]:
    """The smallest values that these parts of all values do not exceed, each as the middle of its bucket."""
    cumulative = counts.cumsum()
    ranks = [max(1, int(np.ceil(part * int(cumulative[-1])))) for part in parts]
    buckets = np.searchsorted(cumulative, ranks)
    return [(lowest_of(int(bucket)) + lowest_of(int(bucket) + 1) - 1) / 2 for bucket in buckets]
