"""What a port wants done at the end of the turn: calls that need a full fence before them, which then is one for all.

AFTERWARDS is the worker's own list, known to its queues as ``after``. The calls are made before the next turn is
announced, so what they use may be freed after a quiet point.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import call1, fence, kernel, offset, prefetch, view

AFTERWARDS_MAX = 255
CALL = np.dtype([("function", "i8"), ("argument", "i8"), ("reads", "i8")], align=True)
AFTERWARDS = np.dtype([("count", "i8"), ("calls", CALL, AFTERWARDS_MAX)], align=True)
CALL_BYTES, CALLS = CALL.itemsize, offset(AFTERWARDS, "calls")

call_at = view(CALL)
afterwards_at = view(AFTERWARDS)


@kernel
def afterwards(after, function, argument, reads):
    """Have ``function(argument)`` called at the end of the turn; at once where there is no list or no place in it.

    ``reads`` is an address that it will read and that another core writes: the lines of all calls come together.
    """
    if after == 0 or afterwards_at(after).count == AFTERWARDS_MAX:
        fence()
        return call1(function, argument)
    a = afterwards_at(after)
    c = call_at(after + CALLS + a.count * CALL_BYTES)
    c.function = function
    c.argument = argument
    c.reads = reads
    a.count += 1
    return 0


@kernel
def run_afterwards(after):
    """Make the calls."""
    a = afterwards_at(after)
    if a.count == 0:
        return 0
    for i in range(a.count):
        prefetch(call_at(after + CALLS + i * CALL_BYTES).reads)
    fence()
    for i in range(a.count):
        c = call_at(after + CALLS + i * CALL_BYTES)
        call1(c.function, c.argument)
    a.count = 0
    return 0
