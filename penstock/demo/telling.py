"""How a demonstration is told: scenes with titles and tables, and a verdict on each thing claimed."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from penstock.demo.launch import RunningSwitch

PAUSE = 0.7  # seconds, so that one can follow


def demo_console() -> Console:
    """Where a story is told. Without names of emoji, which MAC addresses contain: ``:ab:`` is one."""
    return Console(highlight=False, emoji=False)


@dataclass(frozen=True)
class Verdict:
    claim: str
    holds: bool
    seen: str


@dataclass
class Telling(ABC):
    """Scenes told in order on a console, and the verdicts that they ended in."""

    console: Console
    verdicts: list[Verdict] = field(default_factory=list, init=False)

    @abstractmethod
    def scenes(self) -> tuple[Callable[[], None], ...]:
        """What is shown, in order."""

    def tell(self) -> bool:
        """Show every scene; true when every claim held."""
        for scene in self.scenes():
            scene()
            time.sleep(PAUSE)
        self.summary()
        return all(verdict.holds for verdict in self.verdicts)

    def summary(self) -> None:
        self.title("Verdicts")
        for verdict in self.verdicts:
            word = "[bold green]PASS[/]" if verdict.holds else "[bold red]FAIL[/]"
            self.console.print(f"{word}  {verdict.claim}: {verdict.seen}", soft_wrap=True)

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/]")

    def line(self, text: str) -> None:
        self.console.print(f"  {text}", soft_wrap=True, markup=False, highlight=False, emoji=False)

    def table(self, headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        table = Table(*headings, box=None, pad_edge=True, header_style="dim")
        for row in rows:
            table.add_row(*map(str, row))
        self.console.print(table)

    def verdict(self, claim: str, holds: bool, seen: str) -> None:
        verdict = Verdict(claim, holds, seen)
        self.verdicts.append(verdict)
        word = "[green]PASS[/]" if holds else "[red]FAIL[/]"
        self.console.print(f"  {word} {claim}: {seen}", soft_wrap=True)

    def show_counters(self, switch: RunningSwitch) -> None:
        """What every port has counted and dropped."""
        self.title("Exact counters (penstock stats, penstock drops)")
        found = switch.query("stats")
        names = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped")
        self.table(("port", *names), [(port, *(row[name] for name in names)) for port, row in found.items()])
        for row in switch.query("drops"):
            self.console.print(f"  {row['port']}: {row['count']} {row['reason']}, {row['text']}")

    def show_verbs(self, switch: RunningSwitch, capture: str) -> None:
        """Command lines to go on with by hand."""
        program = Path(sys.executable).with_name("penstock")
        command = str(program) if program.exists() else f"{sys.executable} -m penstock.cli"
        for verb in ("show", "top", "fdb br0", "stats", "drops", f"{capture} -w - | tshark -r -"):
            head, _, tail = verb.partition(" | ")
            self.line(f"{command} {head} --rundir {switch.rundir}{' | ' + tail if tail else ''}")
        self.line(f"edit {switch.config} and: {command} reload --rundir {switch.rundir}")
