"""Struct views: one aligned NumPy dtype declares a struct for kernels and for Python.

In kernels ``view(DTYPE)`` makes an operation that turns an address into a record whose integer fields are read and
written by name. Every field reads as int64, whatever its width: narrow unsigned types in a kernel would meet in uint64,
and that with int64 in float64. In Python ``records(DTYPE, address, n)`` is a structured array over the same memory.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, lower_getattr_generic, lower_setattr_generic, models, register_model

from penstock.machine.op import I8, I64, Op, make_op, pointer, signed


def records(dtype: np.dtype[Any], address: int, count: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array of ``count`` items of ``dtype`` over the memory at ``address``: no copy, no owner."""
    memory = (ctypes.c_char * (dtype.itemsize * count)).from_address(int(address))
    return np.frombuffer(memoryview(memory), dtype=dtype, count=count)


class PlainRecord:
    """The twin of a view: fields by name, read as Python integers, cut to the field's width when written."""

    def __init__(self, row: Any) -> None:
        self.__dict__["row"] = row

    def __getattr__(self, name: str) -> int:
        return int(self.__dict__["row"][name])

    def __setattr__(self, name: str, value: int) -> None:
        row = self.__dict__["row"]
        row[name] = np.array(signed(int(value)), dtype=np.int64).astype(row.dtype[name])


class Struct(types.Type):  # type: ignore[misc]
    """Numba's type of a view: a pointer to memory laid out as ``layout``."""

    def __init__(self, layout: np.dtype[Any]) -> None:
        self.layout = layout
        super().__init__(f"Struct({hashlib.sha256(str(layout).encode()).hexdigest()[:16]})")

    def integer(self, field: str) -> tuple[ir.IntType, int, bool] | None:
        """Width, byte offset and signedness of a field; None when there is no such field or it is no integer."""
        fields: dict[str, Any] = dict(self.layout.fields or {})
        found = fields.get(field)
        if found is None or found[0].kind not in "iu":
            return None
        return ir.IntType(found[0].itemsize * 8), int(found[1]), found[0].kind == "i"


@register_model(Struct)
class StructModel(models.PrimitiveModel):  # type: ignore[misc]
    """A view is passed around as its address."""

    def __init__(self, manager: Any, kind: Struct) -> None:
        super().__init__(manager, kind, I8.as_pointer())


@infer_getattr
class StructFields(AttributeTemplate):  # type: ignore[misc]
    """Says that every integer field is an int64 to kernels."""

    key = Struct

    def generic_resolve(self, struct: Struct, field: str) -> Any:
        return None if struct.integer(field) is None else types.int64


def _place(builder: ir.IRBuilder, struct: Struct, address: Any, field: str) -> tuple[Any, ir.IntType, bool]:
    """Pointer to a field, its type, its signedness."""
    found = struct.integer(field)
    assert found is not None, f"{struct} has no integer field {field}"
    kind, position, is_signed = found
    place = builder.gep(address, [ir.Constant(I64, position)], inbounds=True)
    return builder.bitcast(place, kind.as_pointer()), kind, is_signed


@lower_getattr_generic(Struct)
def _get_field(_context: Any, builder: ir.IRBuilder, struct: Struct, address: Any, field: str) -> Any:
    place, kind, is_signed = _place(builder, struct, address, field)
    value = builder.load(place, align=kind.width // 8)
    if kind == I64:
        return value
    return builder.sext(value, I64) if is_signed else builder.zext(value, I64)


@lower_setattr_generic(Struct)
def _set_field(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, field: str) -> None:
    address, value = arguments
    place, kind, _is_signed = _place(builder, signature.args[0], address, field)
    builder.store(value if kind == I64 else builder.trunc(value, kind), place, align=kind.width // 8)


def view(dtype: np.dtype[Any]) -> Op:
    """An operation that views an int64 address as a record of ``dtype``."""
    if not dtype.isalignedstruct:
        raise TypeError(f"struct {dtype} must be declared with align=True: kernels rely on natural alignment")

    def build(context: Any, builder: ir.IRBuilder, address: Any) -> Any:
        return pointer(builder, address, I8)

    return make_op("view", 1, lambda address: PlainRecord(records(dtype, address)[0]), build, returns=Struct(dtype))


def offset(dtype: np.dtype[Any], field: str) -> int:
    """The byte offset of a field, for atomic operations on it."""
    assert dtype.fields is not None
    return int(dtype.fields[field][1])
