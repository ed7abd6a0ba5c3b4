"""Clocks: the core's cycle counter and CLOCK_MONOTONIC."""

from __future__ import annotations

import time
from typing import Any

from llvmlite import ir

from penstock.machine.op import I32, I64, op

CLOCK_MONOTONIC = 1


@op(0, lambda: time.perf_counter_ns())
def cycles(context: Any, builder: ir.IRBuilder) -> Any:
    """The cycle counter (x86: RDTSC, constant rate); the plain-Python twin counts nanoseconds."""
    return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), ir.FunctionType(I64, [])), [])


@op(0, lambda: time.monotonic_ns())
def monotonic_ns(context: Any, builder: ir.IRBuilder) -> Any:
    """CLOCK_MONOTONIC in nanoseconds (about 50 cycles through the vDSO)."""
    timespec = ir.LiteralStructType([I64, I64])
    with builder.goto_entry_block():
        buffer = builder.alloca(timespec)
    kind = ir.FunctionType(I32, [I32, buffer.type])
    function = builder.module.globals.get("clock_gettime") or ir.Function(builder.module, kind, "clock_gettime")
    builder.call(function, [ir.Constant(I32, CLOCK_MONOTONIC), buffer])
    seconds, nanoseconds = (
        builder.load(builder.gep(buffer, [ir.Constant(I32, 0), ir.Constant(I32, field)])) for field in (0, 1)
    )
    return builder.add(builder.mul(seconds, ir.Constant(I64, 1_000_000_000)), nanoseconds)
