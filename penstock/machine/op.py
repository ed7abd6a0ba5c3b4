"""How an operation is declared: one LLVM builder for kernels, one plain-Python twin for everything else.

``@op(arity, twin)`` decorates a function ``build(context, builder, *values) -> llvm value | None`` and makes an object
that kernels call as an intrinsic and plain Python calls as a function. All operands and results are int64; an operation
without a result returns 0.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import _Intrinsic

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
Twin = Callable[..., Any]
Build = Callable[..., Any]


class Op(_Intrinsic):  # type: ignore[misc]
    """An intrinsic that plain Python can call too: there it runs its twin."""

    def __init__(self, name: str, defn: Callable[..., Any], twin: Twin) -> None:
        super().__init__(name, defn)
        self._twin = twin

    def __call__(self, *args: Any) -> Any:
        return self._twin(*map(int, args))


def make_op(name: str, arity: int, twin: Twin, build: Build, returns: types.Type = types.int64) -> Op:
    """An operation of ``arity`` int64 operands that returns ``returns``."""
    signature = returns(*[types.int64] * arity)

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        result = build(context, builder, *args)
        return ir.Constant(I64, 0) if result is None else result

    typers: dict[int, Callable[..., Any]] = {
        0: lambda typingctx: (signature, codegen),
        1: lambda typingctx, a: (signature, codegen),
        2: lambda typingctx, a, b: (signature, codegen),
        3: lambda typingctx, a, b, c: (signature, codegen),
        4: lambda typingctx, a, b, c, d: (signature, codegen),
        5: lambda typingctx, a, b, c, d, e: (signature, codegen),
        6: lambda typingctx, a, b, c, d, e, f: (signature, codegen),
    }
    result = Op(name, typers[arity], twin)
    result._register()
    return result


def op(arity: int, twin: Twin) -> Callable[[Build], Op]:
    """Declare an operation named after the decorated builder function."""

    def wrap(build: Build) -> Op:
        result = make_op(build.__name__, arity, twin, build)
        result.__doc__ = build.__doc__
        return result

    return wrap


def pointer(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    """The LLVM pointer to ``kind`` at an int64 address."""
    return builder.inttoptr(address, kind.as_pointer())


def signed(value: int) -> int:
    """A Python int wrapped to the int64 with the same low 64 bits."""
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def cell(kind: Any, address: int) -> Any:
    """The ctypes object over the memory at ``address``."""
    return kind.from_address(int(address))


UINTS = {8: ctypes.c_uint8, 16: ctypes.c_uint16, 32: ctypes.c_uint32, 64: ctypes.c_int64}
