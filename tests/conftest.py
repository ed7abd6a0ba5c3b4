"""For all tests: those that need what this machine lacks are skipped, saying so."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# The first call of a kernel may compile it, and the machine may be busy: speed is measured by benchmarks.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): programs that the test runs; it is skipped without them")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces and their devices")
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}, which this machine lacks (make test installs them as root)")
