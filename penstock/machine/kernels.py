"""How kernels are compiled: helpers that link into entries, and entries with a C address.

``@kernel`` marks a helper: compiled when an entry first uses it (``@inlined``: and copied to each place of use).
``@entry(signature)`` marks a compiled C function: loaded from the cache or compiled on first use of its address.
Calling an entry from Python releases the GIL.
``KERNELS`` and ``ENTRIES`` list all of both that were imported, for tests and for the warm-up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba
from numba import njit
from numba.core import sigutils, types
from numba.core.ccallback import CFunc

KERNELS: list[Any] = []
JIT = not numba.config.DISABLE_JIT
ENTRIES: list[Entry] = []

Function = Callable[..., Any]


def _compile(function: Function, **options: bool) -> Any:
    compiled = njit(nogil=True, error_model="numpy", boundscheck=False, **options)(function)
    if not JIT:
        compiled.py_func = function  # as a compiled kernel has: the plain function
    KERNELS.append(compiled)
    return compiled


def kernel(function: Function) -> Any:
    """A helper kernel: int64 in and out, no exceptions. Plain Python calls its ``py_func``, which compiles nothing."""
    return _compile(function)


def inlined(function: Function) -> Any:
    """A kernel whose code LLVM puts at every place of use: for the few lines that run for each packet.

    A call of another kernel costs several cycles and a compiled copy costs compile time: keep such kernels short.
    """
    return _compile(function, forceinline=True)


class Entry:
    """A compiled C function of int64 operands and result."""

    def __init__(self, function: Function, signature: str) -> None:
        self.function = function
        self.signature = signature
        self.name = f"{function.__module__.removeprefix('penstock.')}.{function.__name__}"
        self.__doc__ = function.__doc__
        _args, result = sigutils.normalize_signature(signature)
        if result != types.int64 or any(arg != types.int64 for arg in _args):
            raise TypeError(f"entry {self.name}: signature {signature} must be int64 throughout")
        self._prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(_args))

    @cached_property
    def _callable(self) -> Any:
        if not JIT:
            return self._prototype(self.function)
        signature = sigutils.normalize_signature(self.signature)
        self.compiled = CFunc(self.function, signature, locals={}, options={"nopython": True, "error_model": "numpy"})
        self.compiled.enable_caching()
        self.compiled.compile()
        return self._prototype(int(self.compiled.address or 0))

    @property
    def address(self) -> int:
        """The address to be called; compiles or loads the code on first use."""
        return int(ctypes.cast(self._callable, ctypes.c_void_p).value or 0)

    def load(self) -> None:
        """Compile the code, or take it from the cache."""
        assert self.address

    @property
    def cached(self) -> bool:
        """Whether the code came from the cache (valid once loaded)."""
        return bool(not JIT or self.compiled.cache_hits)

    def __call__(self, *args: int) -> int:
        return int(self._callable(*map(int, args)))


def entry(signature: str) -> Callable[[Function], Entry]:
    """Make the decorated kernel a C function of the given Numba signature, all int64."""

    def wrap(function: Function) -> Entry:
        result = Entry(function, signature)
        ENTRIES.append(result)
        return result

    return wrap
