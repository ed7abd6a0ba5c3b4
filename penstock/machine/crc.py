"""CRC-32C (Castagnoli), one word or one byte a step: by the core's instruction where it has one, else by a table.

``crc32c_8(crc, byte)`` and ``crc32c_64(crc, word)`` advance the 32-bit state; the caller complements at both ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir

from penstock.machine.op import I8, I32, I64, Op, make_op

POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _table()


@cache
def _instruction(bits: int) -> str:
    """The LLVM intrinsic of this machine's CRC-32C instruction for a word of ``bits``; empty when it has none."""
    features, triple = llvmlite.binding.get_host_cpu_features(), llvmlite.binding.get_process_triple()
    if triple.startswith("x86_64") and features.get("sse4.2"):
        return {8: "llvm.x86.sse42.crc32.32.8", 64: "llvm.x86.sse42.crc32.64.64"}[bits]
    if triple.startswith("aarch64") and features.get("crc"):
        return {8: "llvm.aarch64.crc32cb", 64: "llvm.aarch64.crc32cx"}[bits]
    return ""


def _by_table(builder: ir.IRBuilder, crc: Any, word: Any, bits: int) -> Any:
    kind = ir.ArrayType(I32, 256)
    table = builder.module.globals.get("penstock.crc32c")
    if table is None:
        table = ir.GlobalVariable(builder.module, kind, "penstock.crc32c")
        table.global_constant, table.linkage, table.initializer = True, "internal", ir.Constant(kind, TABLE)
    value = builder.xor(crc, word)
    for _ in range(bits // 8):
        slot = builder.gep(table, [ir.Constant(I32, 0), builder.and_(value, ir.Constant(I64, 255))])
        value = builder.xor(builder.lshr(value, ir.Constant(I64, 8)), builder.zext(builder.load(slot), I64))
    return value


def _twin(bits: int) -> Callable[[int, int], int]:
    def twin(crc: int, word: int) -> int:
        value = crc ^ word & ((1 << bits) - 1)
        for _ in range(bits // 8):
            value = value >> 8 ^ TABLE[value & 255]
        return value

    return twin


def _crc32c(bits: int) -> Op:
    def build(_context: Any, builder: ir.IRBuilder, crc: Any, word: Any) -> Any:
        name = _instruction(bits)
        if not name:
            narrow = word if bits == 64 else builder.and_(word, ir.Constant(I64, 255))
            return _by_table(builder, crc, narrow, bits)
        x86_wide = name.endswith("64.64")
        state = I64 if x86_wide else I32
        operand = I64 if bits == 64 else (I8 if "x86" in name else I32)
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(state, [state, operand]), name
        )
        before = crc if state is I64 else builder.trunc(crc, I32)
        after = builder.call(function, [before, word if operand is I64 else builder.trunc(word, operand)])
        return after if state is I64 else builder.zext(after, I64)

    return make_op(f"crc32c_{bits}", 2, _twin(bits), build)


crc32c_8, crc32c_64 = _crc32c(8), _crc32c(64)
