"""Fixtures of the system tests. Each needs root: they make namespaces, TAPs and veth pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.lab import Lab

# They measure times, or have virtual machines: nothing else runs beside them.
ALONE = {
    "test_demo", "test_migration", "test_ovsdb_load", "test_restarts", "test_testpmd", "test_traffic",
    "test_vhost_restarts", "test_virtio_user", "test_vm",
}  # fmt: skip
WITH_SPARE = {"test_restarts", "test_vhost_restarts", "test_vm", "soak_vm"}


# What takes longest, in that order: it begins first, so that tests side by side end together.
LONG = (
    "test_controllers", "test_scripts_beside_ovs", "test_vxlan", "test_ovsdb", "test_ovs_service", "test_reload",
    "test_port_kinds", "test_openflow", "test_appctl",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            if item.path.stem in ALONE:
                item.add_marker(pytest.mark.alone)


MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a measurement; all are printed when the tests have ended."""
    return request.config.stash.setdefault(MEASURED, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    notes = config.stash.get(MEASURED, [])
    if notes:
        terminalreporter.section("measured on the way")
        for note in notes:
            terminalreporter.line(note)


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A laboratory for one test."""
    with Lab(tmp_path, spare=request.path.stem in WITH_SPARE) as opened:
        yield opened
