"""Small compiled functions for tests: like ``@entry``, but neither in the list of entries nor in the compile cache.

The cache knows the package's sources, not those of tests: an edited test would run what it was before. Without the JIT
the function itself is called, through the same C prototype.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numba

JIT = not numba.config.DISABLE_JIT


def compiled(function: Callable[..., Any], arity: int) -> Callable[..., int]:
    """A C function of ``arity`` int64 operands; calling it releases the GIL."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)
    if not JIT:
        return prototype(function)
    signature = numba.types.int64(*[numba.types.int64] * arity)
    machine_code = numba.cfunc(signature, nopython=True, error_model="numpy")(function)
    callable_: Any = prototype(machine_code.address)
    callable_.keep = machine_code
    return callable_  # type: ignore[no-any-return]


def in_threads(*calls: Callable[[], int], seconds: float = 60) -> list[int]:
    """The results of calls that run at the same time; fails when they do not end."""
    results = [0] * len(calls)

    def run(index: int) -> None:
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread did not end"
    return results
