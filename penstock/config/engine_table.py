"""The `[engine]` table, read apart from the rest: the supervisor needs it before the kinds of port are imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.config.errors import ConfigError, Problem
from penstock.config.schema import check_table, settings_of, shown
from penstock.config.toml_file import read_toml
from penstock.switch.settings import EngineSettings


def engine_settings(data: Mapping[str, Any], problems: list[Problem]) -> EngineSettings:
    """The settings in data["engine"], checked against this machine's CPUs too; adds to `problems` what is wrong."""
    table = data.get("engine", {})
    if not isinstance(table, dict):
        problems.append(Problem("engine", f"{shown(table)} is wrong: must be a table, as in [engine]"))
        return EngineSettings()
    settings = EngineSettings(**check_table(table, settings_of(EngineSettings), "engine", problems))
    usable = sorted(os.sched_getaffinity(0))
    for index, cpu in enumerate(settings.cpus):
        if cpu not in usable:
            listed = ", ".join(map(str, usable))
            problems.append(Problem(f"engine.cpus[{index}]", f"{cpu} is wrong: this process may run on CPUs {listed}"))
    if settings.cpus and len(settings.cpus) != settings.workers:
        message = f"{list(settings.cpus)} is wrong: must name one CPU for each of the {settings.workers} workers"
        problems.append(Problem("engine.cpus", message))
    return settings


def load_engine_settings(file: Path, workers: int | None = None) -> EngineSettings:
    """The engine's settings in `file`, with the number of workers overridden if given. Raises ConfigError."""
    problems: list[Problem] = []
    data = read_toml(file)
    if workers is not None and isinstance(data.get("engine", {}), dict):
        data["engine"] = {**data.get("engine", {}), "workers": workers}
    settings = engine_settings(data, problems)
    if problems:
        raise ConfigError(file, problems)
    return settings
