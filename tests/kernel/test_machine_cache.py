"""The compile cache: what names its directory, what is kept, and that one process at a time compiles."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.machine import cache
from tests.kernel.compiled import JIT

KEY = "from penstock.machine.cache import cache_key; import penstock; print(cache_key(), penstock.__file__)"
COMPILE = """
from penstock.datapath.fdb import fdb_expire
from penstock.machine import cache_is_warm
fdb_expire.address
print(fdb_expire.cached, cache_is_warm())
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package in a place of its own."""
    return Path(
        shutil.copytree(cache.PACKAGE, tmp_path / "copy" / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    )


def run(package: Path, code: str, **environment: str) -> list[str]:
    """The words that a program prints which imports this copy of the package."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(package.parent), **environment},
        cwd=package.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_key_is_that_of_the_kernel_sources(package: Path) -> None:
    first, file = run(package, KEY)
    assert file.startswith(str(package))
    (package / "cli" / "new.py").write_text("")
    (package / "machine" / "notes.txt").write_text("no source")
    assert run(package, KEY)[0] == first
    source = package / "datapath" / "fdb.py"
    before = source.read_text()
    source.write_text(before + "\n")
    assert run(package, KEY)[0] != first
    source.write_text(before)
    assert run(package, KEY)[0] == first
    source.rename(source.with_name("fdb2.py"))
    assert run(package, KEY, PYTHONPATH=str(package.parent))[0] != first


def test_the_key_is_the_same_elsewhere(package: Path) -> None:
    moved = package.rename(package.parent.parent / "penstock")
    assert run(moved, KEY)[0] == cache.cache_key()


@pytest.mark.skipif(not JIT, reason="nothing is compiled without the JIT")
def test_an_entry_is_compiled_once_for_the_same_sources(package: Path, tmp_path: Path) -> None:
    kept = {"PENSTOCK_CACHE": str(tmp_path / "cache")}
    assert run(package, COMPILE, **kept) == ["False", "False"]
    assert run(package, COMPILE, **kept) == ["True", "False"]
    assert run(package.rename(tmp_path / "penstock"), COMPILE, **kept) == ["True", "False"]
    # Another module's change counts too, which Numba's own cache would not see.
    (tmp_path / "penstock" / "datapath" / "drops.py").open("a").write("\n")
    assert run(tmp_path / "penstock", COMPILE, **kept) == ["False", "False"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    assert cache.cache_directory() == tmp_path / cache.cache_key()
    monkeypatch.delenv("PENSTOCK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_root() == Path("/x/penstock")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path.home() / ".cache" / "penstock"


def test_keys_long_unused_are_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    other = tmp_path / "not-a-key"
    other.mkdir()
    for age in range(1, 6):
        directory = tmp_path / f"{age:016x}"
        directory.mkdir()
        (directory / "x").write_text("")
        os.utime(directory, (time.time() - 1000 * age,) * 2)
    with cache.cache_lock() as directory:
        assert directory == tmp_path / cache.cache_key()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {cache.cache_key(), f"{1:016x}", f"{2:016x}", "not-a-key"}


def test_one_process_compiles_at_a_time(package: Path, tmp_path: Path) -> None:
    hold = "from penstock.machine.cache import cache_lock\nwith cache_lock(): print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PENSTOCK_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", hold]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, env=environment, cwd=package.parent, **pipes)  # type: ignore[call-overload]
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen(command, env=environment, cwd=package.parent, **pipes)  # type: ignore[call-overload]
    assert select.select([second.stdout], [], [], 2.0)[0] == []
    # A holder that is killed holds nothing.
    first.kill()
    first.communicate()
    assert second.stdout.readline() == "held\n"
    second.communicate("\n")
    assert second.returncode == 0
