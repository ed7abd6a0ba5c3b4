"""The architecture, kept: imports point downward, kernels compute in signed integers only, every kernel is tested."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kernel_types import import_rooms

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "penstock"

# A room imports rooms of lower rank only. Entry programs (__main__) put rooms together and may import all below cli.
RANKS = {
    "machine": 0,
    "memory": 1,
    "packet": 2,
    "datapath": 3,
    "ports": 4,
    "traffic": 5,
    "engine": 5,
    "switch": 6,
    "openflow": 7,
    "config": 8,
    "observe": 8,
    "ovsdb": 9,
    "cli": 10,
    "demo": 11,
    "peers": 12,
    "reference": 13,
}
ENTRY_RANK = RANKS["cli"]

# How what stands above the engine may know it: its client and what passes through that, the start, the warm-up.
# Flow tables are written by the control process itself, in memory that it shares with the workers.
ENGINE_SEEN_FROM_ABOVE = {
    "client", "frames", "fdstore", "warm", "errors", "flow_region", "flow_tables", "group_tables", "tlv_map",
    "log_file",
}  # fmt: skip
# What lies below the engine is seen from above only as declarations.
SEEN_FROM_ABOVE = {
    "datapath.drops",
    "datapath.pipeline.program",
    "machine",
    "machine.cache",
    "packet.fields",
    "packet.text",
    "ports",
    "ports.base",
    "ports.spec",
}

# Modules whose kernels no test calls by name, but drives through a port or a worker, and which test does that.
DRIVEN = {
    "penstock.datapath.classify": "tests/engine/test_trace.py",
    "penstock.datapath.layout": "tests/engine/test_trace.py",
    "penstock.datapath.parsing": "tests/engine/test_parsing.py",
    "penstock.datapath.normal": "tests/engine/test_trace.py",
    "penstock.datapath.pipeline.action_set": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.asking": "tests/kernel/test_pipeline_choices.py",
    "penstock.datapath.pipeline.choices": "tests/kernel/test_pipeline_choices.py",
    "penstock.datapath.pipeline.conjunctions": "tests/kernel/test_pipeline_conjunctions.py",
    "penstock.datapath.pipeline.bits": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.changes": "tests/kernel/test_pipeline_changes.py",
    "penstock.datapath.pipeline.classifier": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.edits": "tests/kernel/test_pipeline_edits.py",
    "penstock.datapath.pipeline.execute": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.fetch": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.follow": "tests/kernel/test_pipeline_edits.py",
    "penstock.datapath.pipeline.groups": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.layout": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.lookup": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.meters": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.outputs": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.region": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.scan": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.stage": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.subtables": "tests/kernel/test_pipeline.py",
    "penstock.datapath.pipeline.tables": "tests/kernel/test_pipeline.py",
    "penstock.datapath.stages": "tests/engine/test_trace.py",
    "penstock.datapath.bridging": "tests/engine/test_tunnels.py",
    "penstock.datapath.crossing": "tests/engine/test_tunnels.py",
    "penstock.datapath.output": "tests/engine/test_tunnels.py",
    "penstock.datapath.sending": "tests/engine/test_tunnels.py",
    "penstock.datapath.segments": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.arrivals": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.formats": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.find": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.layout": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.pop": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.push": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.send": "tests/engine/test_tunnels.py",
    "penstock.datapath.tunnel.tlv": "tests/engine/test_tunnel_options.py",
    "penstock.datapath.tunnel.waiting": "tests/engine/test_tunnels.py",
    "penstock.datapath.worker": "tests/engine/test_trace.py",
    "penstock.machine.thread": "tests/engine/test_trace.py",
    "penstock.ports.dummy_kernels": "tests/engine/test_trace.py",
    "penstock.ports.netdev_kernels": "tests/kernel/test_port_tap.py",
    "penstock.ports.packet_kernels": "tests/kernel/test_port_packet.py",
    "penstock.ports.pcap_kernels": "tests/kernel/test_port_pcap.py",
    "penstock.ports.tap_kernels": "tests/kernel/test_port_tap.py",
    "penstock.ports.vhost_user.ahead": "tests/kernel/test_vhost_user_rings.py",
    "penstock.ports.vhost_user.chains": "tests/kernel/test_vhost_user_rings.py",
    "penstock.ports.vhost_user.lost_memory": "tests/kernel/test_vhost_user_session.py",
    "penstock.ports.vhost_user.rx": "tests/kernel/test_vhost_user_rings.py",
    "penstock.ports.vhost_user.tx": "tests/kernel/test_vhost_user_rings.py",
    "penstock.ports.vhost_user.used": "tests/kernel/test_vhost_user_rings.py",
    "penstock.traffic.virtio_user.packed": "tests/kernel/test_virtio_user.py",
    "penstock.traffic.virtio_user.split": "tests/kernel/test_virtio_user.py",
    "penstock.traffic.virtio_user.receive": "tests/kernel/test_virtio_user.py",
}
LONG_MODULE = 300


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    """The room of a module; modules directly in the package belong to none."""
    parts = module.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def rank_of(module: Path) -> int:
    return ENTRY_RANK if module.name == "__main__.py" and room_of(module) != "demo" else RANKS[room_of(module)]


def imports(module: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of every import, inside functions and TYPE_CHECKING blocks too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            name = node.module or ""
            yield from ((node.lineno, f"{name}.{alias.name}" if name == "penstock" else name) for alias in node.names)


def inner_imports(module: Path) -> Iterator[tuple[str, str]]:
    """(place, dotted name below the package) of imports from other rooms."""
    for line, name in imports(module):
        below = name.removeprefix("penstock.")
        if below != name and below.split(".")[0] in RANKS and below.split(".")[0] != room_of(module):
            yield f"{module.relative_to(ROOT)}:{line}", below


def test_every_room_has_a_rank() -> None:
    assert {room_of(module) for module in modules()} == {*RANKS, ""}


def test_imports_point_downward() -> None:
    upward = [
        f"{place} imports {name}"
        for module in modules()
        if room_of(module)
        for place, name in inner_imports(module)
        if RANKS[name.split(".")[0]] >= rank_of(module)
    ]
    assert not upward


def test_only_the_machine_room_knows_the_compiler() -> None:
    found = [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in modules()
        if room_of(module) != "machine"
        for line, name in imports(module)
        if name.split(".")[0] in ("llvmlite", "numba")
    ]
    assert not found


def test_what_stands_above_the_engine_reaches_it_by_its_client() -> None:
    found = []
    for module in modules():
        if not room_of(module) or RANKS[room_of(module)] <= RANKS["engine"]:
            continue
        for place, name in inner_imports(module):
            room, _, rest = name.partition(".")
            past_the_client = room == "engine" and rest not in ENGINE_SEEN_FROM_ABOVE
            too_deep = RANKS[room] < RANKS["engine"] and name not in SEEN_FROM_ABOVE
            if past_the_client or too_deep:
                found.append(f"{place} imports {name}")
    assert not found


def test_kernels_compute_in_signed_integers_only() -> None:
    """An unsigned 64-bit operand beside a signed one makes Numba infer float64: neither may appear."""
    environment = dict(os.environ)
    environment.pop("NUMBA_DISABLE_JIT", None)
    program = [sys.executable, str(Path(__file__).with_name("kernel_types.py"))]
    done = subprocess.run(program, env=environment, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["functions"] > 100
    assert not result["wrong"]


def test_every_kernel_is_tested() -> None:
    """Kernels are named in a kernel test, or called by one that is, or their module is driven by a test in DRIVEN."""
    import_rooms()
    from penstock.machine import ENTRIES, KERNELS

    compiled = {each.py_func.__name__: each.py_func for each in KERNELS} | {
        each.function.__name__: each.function for each in ENTRIES
    }
    texts = [
        file.read_text() for room in ("kernel", "engine", "naive") for file in (ROOT / "tests" / room).glob("*.py")
    ]
    named = {word for text in texts for word in re.findall(r"\w+", text)}
    waiting = [name for name, function in compiled.items() if name in named or function.__module__ in DRIVEN]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [called for called in compiled[name].__code__.co_names if called in compiled]
    assert not {f"{compiled[name].__module__}.{name}" for name in compiled.keys() - reached}
    for module, test in DRIVEN.items():
        assert module in sys.modules, f"DRIVEN names {module}, which is no more"
        assert (ROOT / test).exists()


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"])
def test_nothing_is_left_for_later(word: str) -> None:
    files = [
        *modules(),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "bench").rglob("*.py"),
        *(ROOT / "docs").glob("*.md"),
    ]
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"\b{word}\b", line)
    ]
    assert not found


def test_modules_stay_short() -> None:
    """A long module is no failure, but a place to look: does it hold two ideas?"""
    for module in modules():
        lines = len(module.read_text(encoding="utf-8").splitlines())
        if lines > LONG_MODULE:
            warnings.warn(f"{module.relative_to(ROOT)} has {lines} lines, more than {LONG_MODULE}", stacklevel=1)
