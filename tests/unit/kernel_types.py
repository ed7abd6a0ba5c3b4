"""Infers the types of every kernel and entry anew and prints, as JSON, each variable that is not a signed integer.

A program of its own, since Numba is kept from making code here, which takes most of the time. A kernel that no entry
calls is typed for int64 operands.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

from numba import njit, types
from numba.core import typed_passes
from numba.core.compiler import _LowerResult
from numba.core.funcdesc import PythonFunctionDescriptor

import penstock

KERNEL_ROOMS = ("machine", "memory", "packet", "datapath", "ports", "traffic", "engine")


def import_rooms() -> None:
    for room in KERNEL_ROOMS:
        package = importlib.import_module(f"{penstock.__name__}.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def make_no_code(_self: Any, state: Any) -> bool:
    """In place of lowering: a result with types, and nothing to call."""
    state.library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
    described = PythonFunctionDescriptor.from_specialized_function(
        state.func_ir, state.typemap, state.return_type, state.calltypes,
        mangler=state.targetctx.mangler, inline=False, noalias=False, abi_tags=[],
    )  # fmt: skip
    state["cr"] = _LowerResult(described, None, cfunc=len, env=None)  # never called
    return True


def functions() -> list[Any]:
    """Every kernel, and every entry as one, typed."""
    from penstock.machine import ENTRIES, KERNELS

    entries = [njit(nogil=True, error_model="numpy")(entry.function) for entry in ENTRIES]
    for each in [*entries, *KERNELS]:
        if not each.overloads:
            each.compile((types.int64,) * each.py_func.__code__.co_argcount)
    return [*entries, *KERNELS]


def wrong_types(compiled: Any) -> Iterator[dict[str, str]]:
    """Variables that are floating-point or unsigned, in any specialisation."""
    for overload in compiled.overloads.values():
        for variable, kind in overload.type_annotation.typemap.items():
            unsigned = isinstance(kind, types.Integer) and not kind.signed
            if unsigned or isinstance(kind, types.Float | types.Complex):
                name = f"{compiled.py_func.__module__}.{compiled.py_func.__qualname__}"
                yield {"kernel": name, "variable": variable, "type": str(kind)}


if __name__ == "__main__":
    import_rooms()
    typed_passes.NativeLowering.run_pass = make_no_code
    compiled = functions()
    found = [row for each in compiled for row in wrong_types(each)]
    print(json.dumps({"functions": len(compiled), "wrong": found}))
