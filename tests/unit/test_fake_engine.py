"""The engine without packets keeps up with what stands above the real one."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from penstock.engine.client import EngineClient
from tests.unit.fake_engine import FakeEngine

ROOT = Path(__file__).parents[2]
# Left out: what only a test with packets can reach.
WITH_PACKETS = {"run_program", "set_port_config", "cache_stats", "add_fdb"}


def asked_of_the_engine() -> set[str]:
    """The attributes of every name ``client`` in the rooms that hold an EngineClient."""
    modules = [path for room in ("switch", "openflow") for path in (ROOT / "penstock" / room).glob("*.py")]
    found = set()
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client":
                found.add(node.attr)
    return found & set(dir(EngineClient))


def test_the_fake_engine_has_every_method_that_is_asked_of_the_real_one() -> None:
    assert asked_of_the_engine() >= {"add_ports", "settle", "packet_outs_written"}
    assert asked_of_the_engine() - WITH_PACKETS - set(dir(FakeEngine)) == set()


def test_its_methods_take_what_the_real_ones_take() -> None:
    for name in asked_of_the_engine() & set(dir(FakeEngine)):
        real, fake = getattr(EngineClient, name), getattr(FakeEngine, name)
        if callable(real):
            assert len(inspect.signature(fake).parameters) == len(inspect.signature(real).parameters), name
