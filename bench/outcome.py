"""What a comparison comes to: figures for a program, tables for a person, and the demands that were not met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Outcome:
    figures: dict[str, Any]
    tables: list[Table]
    unmet: list[str]  # a sentence each


@dataclass(frozen=True)
class Spread:
    """Of the rounds of one measurement."""

    median: float
    least: float
    most: float


def spread(figures: Sequence[float]) -> Spread:
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of the rounds' ratios: what drifts from round to round drifts for both."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])
