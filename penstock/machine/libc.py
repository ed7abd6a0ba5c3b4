"""System calls from kernels, through libc: the result, or minus errno.

All operands are int64. A call that blocks holds no lock and no GIL.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir

from penstock.machine.op import I32, I64, Op, make_op

_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(name: str, result_bits: int, *bits: int) -> Op:
    """An operation for libc's ``name``, whose operands are integers (or pointers: 64) of the given widths."""
    result_type = ir.IntType(result_bits)

    def build(context: Any, builder: ir.IRBuilder, *args: Any) -> Any:
        module = builder.module
        kinds = [ir.IntType(width) for width in bits]
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(result_type, kinds), name)
        operands = [
            arg if width == 64 else builder.trunc(arg, ir.IntType(width)) for arg, width in zip(args, bits, strict=True)
        ]
        result = builder.call(function, operands)
        if result_bits != 64:
            result = builder.sext(result, I64)
        locate = module.globals.get("__errno_location") or ir.Function(
            module, ir.FunctionType(I32.as_pointer(), []), "__errno_location"
        )
        failed = builder.icmp_signed("<", result, ir.Constant(I64, 0))
        with builder.goto_entry_block():
            slot = builder.alloca(I64)
        builder.store(result, slot)
        with builder.if_then(failed, likely=False):
            errno = builder.sext(builder.load(builder.call(locate, [])), I64)
            builder.store(builder.neg(errno), slot)
        return builder.load(slot)

    function = getattr(_LIBC, name)
    function.restype = ctypes.c_int64 if result_bits == 64 else ctypes.c_int32
    function.argtypes = [ctypes.c_int64 if width == 64 else ctypes.c_int32 for width in bits]

    def twin(*args: int) -> int:
        result = int(function(*map(int, args)))
        return result if result >= 0 else -ctypes.get_errno()

    return make_op(f"sys_{name}", len(bits), twin, build)


sys_read = _call("read", 64, 32, 64, 64)
sys_write = _call("write", 64, 32, 64, 64)
sys_readv = _call("readv", 64, 32, 64, 32)
sys_writev = _call("writev", 64, 32, 64, 32)
sys_sendto = _call("sendto", 64, 32, 64, 64, 32, 64, 32)
sys_epoll_ctl = _call("epoll_ctl", 32, 32, 32, 32, 64)
sys_sendmmsg = _call("sendmmsg", 32, 32, 64, 32, 32)
sys_ftruncate = _call("ftruncate", 32, 32, 64)
sys_epoll_wait = _call("epoll_wait", 32, 32, 64, 32, 32)
sys_mmap = _call("mmap", 64, 64, 64, 32, 32, 32, 64)
sys_munmap = _call("munmap", 32, 64, 64)
sys_madvise = _call("madvise", 32, 64, 64, 32)
sys_signal = _call("signal", 64, 32, 64)
sys_poll = _call("poll", 32, 64, 64, 32)
