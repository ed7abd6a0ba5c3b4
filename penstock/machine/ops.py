"""Single-instruction operations: loads, stores, atomics, fences, bit counts, hashes, block copies, calls by address.

Loads of 8, 16 and 32 bits extend with zeros. ``load_acquire*`` and ``store_release*`` are for words that another
thread, process or guest may change: the plain ones may be hoisted out of a waiting loop by the optimiser. The twins
of the atomics are atomic only among threads that hold the GIL: they serve debugging, not a live switch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from penstock.machine.op import I1, I8, I16, I32, I64, UINTS, Op, cell, make_op, op, pointer, signed

KINDS = {8: I8, 16: I16, 32: I32, 64: I64}


def _extend(builder: ir.IRBuilder, value: Any, bits: int) -> Any:
    return value if bits == 64 else builder.zext(value, I64)


def _narrow(builder: ir.IRBuilder, value: Any, bits: int) -> Any:
    return value if bits == 64 else builder.trunc(value, KINDS[bits])


def _swap(builder: ir.IRBuilder, value: Any, bits: int) -> Any:
    kind = KINDS[bits]
    return builder.call(builder.module.declare_intrinsic("llvm.bswap", [kind], ir.FunctionType(kind, [kind])), [value])


def _swap_twin(value: int, bits: int) -> int:
    raw = (value & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
    return signed(int.from_bytes(raw, "big"))


def _load(bits: int, big_endian: bool = False) -> Op:
    def build(context: Any, builder: ir.IRBuilder, address: Any) -> Any:
        value = builder.load(pointer(builder, address, KINDS[bits]), align=1)
        return _extend(builder, _swap(builder, value, bits) if big_endian else value, bits)

    def twin(address: int) -> int:
        value = int(cell(UINTS[bits], address).value)
        return _swap_twin(value, bits) if big_endian else value

    return make_op(f"load{bits}{'be' if big_endian else ''}", 1, twin, build)


def _store(bits: int, big_endian: bool = False) -> Op:
    def build(context: Any, builder: ir.IRBuilder, address: Any, value: Any) -> None:
        value = _narrow(builder, value, bits)
        value = _swap(builder, value, bits) if big_endian else value
        builder.store(value, pointer(builder, address, KINDS[bits]), align=1)

    def twin(address: int, value: int) -> int:
        cell(UINTS[bits], address).value = _swap_twin(int(value), bits) if big_endian else int(value)
        return 0

    return make_op(f"store{bits}{'be' if big_endian else ''}", 2, twin, build)


def _load_acquire(bits: int) -> Op:
    def build(context: Any, builder: ir.IRBuilder, address: Any) -> Any:
        value = builder.load_atomic(pointer(builder, address, KINDS[bits]), "acquire", align=bits // 8)
        return _extend(builder, value, bits)

    return make_op(f"load_acquire{bits}", 1, lambda address: int(cell(UINTS[bits], address).value), build)


def _store_release(bits: int) -> Op:
    def build(context: Any, builder: ir.IRBuilder, address: Any, value: Any) -> None:
        target = pointer(builder, address, KINDS[bits])
        builder.store_atomic(_narrow(builder, value, bits), target, "release", align=bits // 8)

    def twin(address: int, value: int) -> int:
        cell(UINTS[bits], address).value = int(value)
        return 0

    return make_op(f"store_release{bits}", 2, twin, build)


load8, load16, load32, load64 = (_load(bits) for bits in (8, 16, 32, 64))
load16be, load32be, load64be = (_load(bits, big_endian=True) for bits in (16, 32, 64))
store8, store16, store32, store64 = (_store(bits) for bits in (8, 16, 32, 64))
store16be, store32be, store64be = (_store(bits, big_endian=True) for bits in (16, 32, 64))
load_acquire16, load_acquire32, load_acquire = (_load_acquire(bits) for bits in (16, 32, 64))
store_release16, store_release32, store_release = (_store_release(bits) for bits in (16, 32, 64))


def _bswap(bits: int) -> Op:
    def build(context: Any, builder: ir.IRBuilder, value: Any) -> Any:
        return _extend(builder, _swap(builder, _narrow(builder, value, bits), bits), bits)

    return make_op(f"bswap{bits}", 1, lambda value: _swap_twin(int(value), bits), build)


bswap16, bswap32, bswap64 = (_bswap(bits) for bits in (16, 32, 64))


def _atomic_add_twin(address: int, value: int) -> int:
    word = cell(ctypes.c_int64, address)
    old = int(word.value)
    word.value = old + int(value)
    return old


@op(2, _atomic_add_twin)
def atomic_add(context: Any, builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Add to the 64-bit word at ``address``; the old value."""
    return builder.atomic_rmw("add", pointer(builder, address, I64), value, "seq_cst")


def _atomic_or8_twin(address: int, value: int) -> int:
    byte = cell(UINTS[8], address)
    old = int(byte.value)
    byte.value = old | int(value) & 0xFF
    return old


@op(2, _atomic_or8_twin)
def atomic_or8(context: Any, builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Set bits of the byte at ``address``; the old value."""
    bits = builder.trunc(value, I8)
    return builder.zext(builder.atomic_rmw("or", pointer(builder, address, I8), bits, "seq_cst"), I64)


def _exchange_twin(address: int, value: int) -> int:
    word = cell(ctypes.c_int64, address)
    old = int(word.value)
    word.value = int(value)
    return old


@op(2, _exchange_twin)
def exchange(context: Any, builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Store a 64-bit word and return the old one, in one atomic step."""
    return builder.atomic_rmw("xchg", pointer(builder, address, I64), value, "seq_cst")


def _cas_twin(address: int, expected: int, new: int) -> int:
    word = cell(ctypes.c_int64, address)
    if word.value != expected:
        return 0
    word.value = int(new)
    return 1


@op(3, _cas_twin)
def cas(context: Any, builder: ir.IRBuilder, address: Any, expected: Any, new: Any) -> Any:
    """Store ``new`` if the 64-bit word at ``address`` still holds ``expected``: 1 when stored, else 0."""
    pair = builder.cmpxchg(pointer(builder, address, I64), expected, new, "seq_cst", "seq_cst")
    return builder.zext(builder.extract_value(pair, 1), I64)


@op(0, lambda: 0)
def fence(context: Any, builder: ir.IRBuilder) -> None:
    """A full memory fence: stores before it are seen before loads after it."""
    if "x86" in str(builder.module.triple):
        # An atomic operation on the stack orders as much as MFENCE, and costs less.
        with builder.goto_entry_block():
            word = builder.alloca(I64)
        builder.atomic_rmw("or", word, ir.Constant(I64, 0), "seq_cst")
    else:
        builder.fence("seq_cst")


@op(0, lambda: 0)
def pause(context: Any, builder: ir.IRBuilder) -> None:
    """Tell the core that this is a spin loop (x86 PAUSE; nothing elsewhere)."""
    if "x86" in str(builder.module.triple):
        builder.call(
            builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), [])), []
        )


def _prefetch(name: str, write: int) -> Op:
    def build(context: Any, builder: ir.IRBuilder, address: Any) -> None:
        target = pointer(builder, address, I8)
        kind = ir.FunctionType(ir.VoidType(), [target.type, I32, I32, I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [target.type], kind)
        builder.call(function, [target, ir.Constant(I32, write), ir.Constant(I32, 3), ir.Constant(I32, 1)])

    return make_op(name, 1, lambda address: 0, build)


prefetch = _prefetch("prefetch", 0)
prefetch_write = _prefetch("prefetch_write", 1)


def _memory_call(intrinsic: str, value_kind: ir.Type) -> Callable[..., None]:
    def build(context: Any, builder: ir.IRBuilder, dst: Any, value: Any, size: Any) -> None:
        to = pointer(builder, dst, I8)
        operand = pointer(builder, value, I8) if value_kind is not I8 else builder.trunc(value, I8)
        overloads = [to.type, operand.type, I64] if value_kind is not I8 else [to.type, I64]
        kind = ir.FunctionType(ir.VoidType(), [to.type, operand.type, I64, I1])
        function = builder.module.declare_intrinsic(intrinsic, overloads, kind)
        builder.call(function, [to, operand, size, ir.Constant(I1, 0)])

    return build


def _memmove_twin(dst: int, src: int, size: int) -> int:
    ctypes.memmove(int(dst), int(src), int(size))
    return 0


def _memset_twin(dst: int, byte: int, size: int) -> int:
    ctypes.memset(int(dst), int(byte), int(size))
    return 0


copy = make_op("copy", 3, _memmove_twin, _memory_call("llvm.memcpy", I64))
move = make_op("move", 3, _memmove_twin, _memory_call("llvm.memmove", I64))
fill = make_op("fill", 3, _memset_twin, _memory_call("llvm.memset", I8))


def _block(size: int) -> Op:
    """A copy as one load and store. Copies of fixed size by ``copy`` in several branches become one call of memcpy."""

    def build(context: Any, builder: ir.IRBuilder, dst: Any, src: Any) -> None:
        kind = ir.VectorType(I64, size // 8)
        builder.store(builder.load(pointer(builder, src, kind), align=1), pointer(builder, dst, kind), align=1)

    return make_op(f"copy{size}", 2, lambda dst, src: _memmove_twin(dst, src, size), build)


copy16, copy32, copy64 = _block(16), _block(32), _block(64)


@op(2, lambda value, bits: signed((int(value) & ((1 << 64) - 1)) >> int(bits)))
def shr(context: Any, builder: ir.IRBuilder, value: Any, bits: Any) -> Any:
    """Shift right and fill with zeros (``>>`` on int64 fills with the sign)."""
    return builder.lshr(value, bits)


@op(2, lambda a, b: int((int(a) & ((1 << 64) - 1)) < (int(b) & ((1 << 64) - 1))))
def ltu(context: Any, builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """1 when a < b as unsigned words."""
    return builder.zext(builder.icmp_unsigned("<", a, b), I64)


def _bit_count(name: str, intrinsic: str, twin: Callable[[int], int], flag: bool) -> Op:
    def build(context: Any, builder: ir.IRBuilder, value: Any) -> Any:
        kinds, operands = ([I64, I1], [value, ir.Constant(I1, 0)]) if flag else ([I64], [value])
        return builder.call(builder.module.declare_intrinsic(intrinsic, [I64], ir.FunctionType(I64, kinds)), operands)

    return make_op(name, 1, twin, build)


def _ctz_twin(value: int) -> int:
    low = int(value) & ((1 << 64) - 1)
    return 64 if low == 0 else (low & -low).bit_length() - 1


def _clz_twin(value: int) -> int:
    return 64 - (int(value) & ((1 << 64) - 1)).bit_length()


ctz = _bit_count("ctz", "llvm.cttz", _ctz_twin, flag=True)
clz = _bit_count("clz", "llvm.ctlz", _clz_twin, flag=True)
popcount = _bit_count("popcount", "llvm.ctpop", lambda v: (int(v) & ((1 << 64) - 1)).bit_count(), flag=False)

GOLDEN = 0x9E3779B97F4A7C15
STEP = 0xD6E8FEB86659FD93


def _mulhi_mix_twin(x: int, y: int) -> int:
    mask = (1 << 64) - 1
    product = (int(x) & mask) * (int(y) & mask)
    return signed((product >> 64) ^ (product & mask))


def _mulhi_mix(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    wide = ir.IntType(128)
    product = builder.mul(builder.zext(x, wide), builder.zext(y, wide))
    return builder.xor(builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), I64), builder.trunc(product, I64))


@op(2, _mulhi_mix_twin)
def mulhi_mix(context: Any, builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Both halves of the 128-bit product xored: the mixing step of a fast word hash."""
    return _mulhi_mix(builder, x, y)


@op(1, lambda x: _mulhi_mix_twin(_mulhi_mix_twin(x ^ STEP, GOLDEN) ^ x, STEP) & ((1 << 63) - 1))
def hash64(context: Any, builder: ir.IRBuilder, x: Any) -> Any:
    """A well-mixed, non-negative hash of one word (two multiply-fold rounds)."""
    golden, step = (ir.Constant(I64, constant) for constant in (GOLDEN, STEP))
    mixed = _mulhi_mix(builder, builder.xor(_mulhi_mix(builder, builder.xor(x, step), golden), x), step)
    return builder.and_(mixed, ir.Constant(I64, (1 << 63) - 1))


def _call(arity: int) -> Op:
    def build(context: Any, builder: ir.IRBuilder, function: Any, *args: Any) -> Any:
        kind = ir.FunctionType(I64, [I64] * arity)
        return builder.call(builder.inttoptr(function, kind.as_pointer()), args)

    def twin(function: int, *args: int) -> int:
        return int(ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(int(function))(*map(int, args)))

    return make_op(f"call{arity}", arity + 1, twin, build)


call1, call2, call3, call4 = (_call(arity) for arity in (1, 2, 3, 4))
