"""Where compiled kernels are kept: a directory named by everything that the machine code depends on.

Numba's own cache looks only at the file that an entry is defined in; here a hash of all kernel sources, of Python,
Numba and llvmlite, and of the CPU names the directory, so an edit anywhere recompiles and a copy of the tree
elsewhere does not.
``PENSTOCK_CACHE`` moves the directory; the three most recently used keys are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
from numba.core.caching import _CacheLocator

PACKAGE = Path(__file__).parent.parent
ROOMS = ("machine", "memory", "packet", "datapath", "ports", "traffic", "engine")
KEPT = 3
COMPLETE = ".complete"  # in the keyed directory: names of entries that are there, once all of the engine's are


@cache
def cache_key() -> str:
    """A hash of all kernel sources, the compilers' versions and the CPU."""
    digest = hashlib.sha256()
    parts = [sys.version, numba.__version__, llvmlite.__version__, platform.machine()]
    parts += [llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()]
    digest.update("\0".join(parts).encode())
    for room in ROOMS:
        for source in sorted((PACKAGE / room).rglob("*.py")):
            digest.update(source.relative_to(PACKAGE).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """The directory that holds one subdirectory per key."""
    if "PENSTOCK_CACHE" in os.environ:
        return Path(os.environ["PENSTOCK_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "penstock"


def cache_directory() -> Path:
    """The directory of the present sources on this machine."""
    return cache_root() / cache_key()


def warm_entries() -> set[str]:
    """The names of the entries of the present sources that are known to be in the cache."""
    note = cache_directory() / COMPLETE
    return set(note.read_text(encoding="utf-8").split()) if note.exists() else set()


def cache_is_warm() -> bool:
    """Whether all that an engine needs was compiled before from the present sources."""
    return (cache_directory() / COMPLETE).exists()


def mark_warm(names: set[str]) -> None:
    """Note that these entries, all of the engine's among them, are in the cache; by the holder of ``cache_lock``."""
    (cache_directory() / COMPLETE).write_text("\n".join(sorted(names | warm_entries())), encoding="utf-8")


class KeyedLocator(_CacheLocator):  # type: ignore[misc]
    """Tells Numba to keep an entry in the keyed directory; the key itself says whether it is fresh."""

    def __init__(self, py_func: Any) -> None:
        self._module = py_func.__module__
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return cache_key()

    def get_disambiguator(self) -> str:
        return f"{self._module}-{self._line}"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> KeyedLocator:
        return cls(py_func)


numba.config.CACHE_LOCATOR_CLASSES = f"{KeyedLocator.__module__}.{KeyedLocator.__name__}"


@contextmanager
def cache_lock() -> Iterator[Path]:
    """Hold the keyed directory for one compiling process; drops the directories of keys long unused."""
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    os.utime(directory)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = sorted(cache_root().glob("[0-9a-f]" * 16), key=lambda path: path.stat().st_mtime, reverse=True)
        for stale in others[KEPT:]:
            shutil.rmtree(stale, ignore_errors=True)
        yield directory
