"""What a port wants done at the end of the turn: calls that need a full fence before them, which then is one for all.

AFTERWARDS is the worker's own list, known to its queues as ``after``. The calls are made before the next turn is
announced, so what they use may be freed after a quiet point.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import call1, fence, kernel, load64, offset, store64, view

AFTERWARDS_MAX = 255
AFTERWARDS = np.dtype([("count", "i8"), ("calls", "i8", 2 * AFTERWARDS_MAX)], align=True)
CALLS = offset(AFTERWARDS, "calls")

afterwards_at = view(AFTERWARDS)


@kernel
def afterwards(after, function, argument):
    """Have ``function(argument)`` called at the end of the turn; at once where there is no list or no place in it."""
    if after == 0 or afterwards_at(after).count == AFTERWARDS_MAX:
        fence()
        return call1(function, argument)
    a = afterwards_at(after)
    store64(after + CALLS + a.count * 16, function)
    store64(after + CALLS + a.count * 16 + 8, argument)
    a.count += 1
    return 0


@kernel
def run_afterwards(after):
    """Make the calls."""
    a = afterwards_at(after)
    if a.count == 0:
        return 0
    fence()
    for i in range(a.count):
        call1(load64(after + CALLS + i * 16), load64(after + CALLS + i * 16 + 8))
    a.count = 0
    return 0
