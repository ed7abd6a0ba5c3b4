"""Struct views: one aligned NumPy dtype declares a struct for kernels and for Python.

In kernels ``view(DTYPE)`` makes an operation that turns an address into a record whose scalar fields are read and
written by name. In Python ``records(DTYPE, address, n)`` is a structured array over the same memory.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype

from penstock.machine.op import Op, make_op, signed


def records(dtype: np.dtype[Any], address: int, count: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array of ``count`` items of ``dtype`` over the memory at ``address``: no copy, no owner."""
    memory = (ctypes.c_char * (dtype.itemsize * count)).from_address(int(address))
    return np.frombuffer(memoryview(memory), dtype=dtype, count=count)


class PlainRecord:
    """The twin of a view: fields by name, read as Python integers as wide as they need, cut to the field when written."""

    def __init__(self, row: Any) -> None:
        self.__dict__["row"] = row

    def __getattr__(self, name: str) -> int:
        return int(self.__dict__["row"][name])

    def __setattr__(self, name: str, value: int) -> None:
        row = self.__dict__["row"]
        row[name] = np.array(signed(int(value)), dtype=np.int64).astype(row.dtype[name])


def view(dtype: np.dtype[Any]) -> Op:
    """An operation that views an int64 address as a record of ``dtype``."""
    if not dtype.isalignedstruct:
        raise TypeError(f"struct {dtype} must be declared with align=True: kernels rely on natural alignment")
    record_type = from_dtype(dtype)

    def build(context: Any, builder: ir.IRBuilder, address: Any) -> Any:
        return builder.inttoptr(address, context.get_value_type(record_type))

    return make_op("view", 1, lambda address: PlainRecord(records(dtype, address)[0]), build, returns=record_type)


def offset(dtype: np.dtype[Any], field: str) -> int:
    """The byte offset of a field, for atomic operations on it."""
    assert dtype.fields is not None
    return int(dtype.fields[field][1])
