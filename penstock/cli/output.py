"""How the verbs print: JSON, or columns that stay whole in a pipe; and the words for VLANs, rates and times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
    """Left-aligned columns, numbers right-aligned; a column that is empty in every row is left out."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [[isinstance(cell, int | float) for cell in row] for row in rows]
    used = [index for index in range(len(headings)) if not cells or any(row[index] for row in cells)]
    widths = [max(len(headings[i]), *(len(row[i]) for row in cells)) if cells else len(headings[i]) for i in used]
    right = [bool(numeric) and all(row[i] for row in numeric) for i in used]

    def line(texts: Sequence[str]) -> str:
        parts = [
            texts[i].rjust(width) if at_right else texts[i].ljust(width)
            for i, width, at_right in zip(used, widths, right, strict=True)
        ]
        return indent + "  ".join(parts).rstrip()

    click.echo(click.style(line([heading.upper() for heading in headings]), bold=True))
    for row in cells:
        click.echo(line(row))


def vlan_text(vlan: dict[str, Any]) -> str:
    """ "access 10", "trunk", "trunk 10,20-22", "native-untagged 5, trunks 10"."""
    words = [vlan["mode"]]
    if vlan["tag"] is not None:
        words.append(str(vlan["tag"]))
    text = " ".join(words)
    if vlan["trunks"]:
        text += f"{' ' if vlan['mode'] == 'trunk' else ', trunks '}{_ranges(vlan['trunks'])}"
    return text


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def si(value: float) -> str:
    """A rate to three digits: 1.23 M, 45.6 k, 789."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """ "12 s", "3 min 4 s", "5 h 6 min", "7 d 8 h"."""
    whole = max(0, int(seconds))
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {part_unit}"
    return f"{whole} s"
