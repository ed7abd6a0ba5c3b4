"""Fixtures of the system tests. Each needs root: they make namespaces, TAPs and veth pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.lab import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A laboratory for one test."""
    with Lab(tmp_path) as opened:
        yield opened
