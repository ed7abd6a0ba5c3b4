"""Penstock beside other switches, in one run on one machine; absolute figures of different runs are not comparable.

``python -m bench.peers [dpdk|guests|tcp|all] [--rounds N] [--seconds S] [--cases ...] [--switches ...] [--json]``, as
root. ``dpdk``: between two virtio guests, beside Open vSwitch with DPDK. ``guests``: the same with guests of our own.
``tcp``: between two kernels' stacks. The exit code is 1 when a demand is not met, 2 when the machine lacks something.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from bench import guests, tcp, vhost, vhost_report
from bench.dpdk import DpdkError
from bench.outcome import Outcome
from bench.vhost_cases import CASES
from bench.vhost_switches import SWITCHES
from penstock.peers.huge_pages import HugePageError

DPDK_ROUNDS, ROUNDS = 25, 5  # turns cost no start, so many short ones
DPDK_SECONDS, GUESTS_SECONDS, TCP_SECONDS = 0.3, 1.0, 3.0
WIDTH = 160  # of tables that go into a file


@dataclass(frozen=True)
class Comparison:
    missing: Callable[[], list[str]]
    run: Callable[[argparse.Namespace, Callable[[str], None]], Outcome]


def _dpdk(options: argparse.Namespace, progress: Callable[[str], None]) -> Outcome:
    cases = [case for case in CASES if case.name in options.cases]
    return vhost_report.run(
        cases, options.switches, options.rounds or DPDK_ROUNDS, options.seconds or DPDK_SECONDS, progress
    )


def _tcp(options: argparse.Namespace, progress: Callable[[str], None]) -> Outcome:
    return tcp.run(options.rounds or ROUNDS, options.seconds or TCP_SECONDS, progress)


def _guests(options: argparse.Namespace, progress: Callable[[str], None]) -> Outcome:
    return guests.run(options.rounds or ROUNDS, options.seconds or GUESTS_SECONDS, progress)


COMPARISONS = {
    "dpdk": Comparison(vhost.missing, _dpdk),
    "guests": Comparison(vhost.missing, _guests),
    "tcp": Comparison(tcp.missing, _tcp),
}


def arguments() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=[*COMPARISONS, "all"], default="all")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or {DPDK_ROUNDS} (dpdk)")
    lengths = f"{DPDK_SECONDS:g} (dpdk), {GUESTS_SECONDS:g} (guests), {TCP_SECONDS:g} (tcp)"
    parser.add_argument("--seconds", type=float, help=f"of a round: {lengths}")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    listed = ", ".join(SWITCHES)
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=[*SWITCHES], metavar="NAME", help=listed)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    chosen = {name: each for name, each in COMPARISONS.items() if options.what in (name, "all")}
    missing = {thing: None for each in chosen.values() for thing in each.missing()}
    if missing:
        print(f"bench.peers {options.what} needs: {', '.join(missing)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # as Ctrl-C does: clean up
    log = Console(stderr=True)
    try:
        outcomes = {name: each.run(options, lambda text: log.print(text, style="dim")) for name, each in chosen.items()}
    except (DpdkError, HugePageError) as error:
        print(f"bench.peers {options.what}: {error}", file=sys.stderr)
        return 2
    unmet = [sentence for outcome in outcomes.values() for sentence in outcome.unmet]
    if options.json:
        figures = {name: outcome.figures for name, outcome in outcomes.items()}
        print(json.dumps(figures | {"unmet": unmet}, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        for outcome in outcomes.values():
            for table in outcome.tables:
                console.print(table)
        for sentence in unmet:
            print(f"not met: {sentence}")
    return int(bool(unmet))


if __name__ == "__main__":
    raise SystemExit(main())
