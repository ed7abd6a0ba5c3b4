"""Ports by the database: ``python -m bench.ovsdb_ports [--ports N] [--batch B] [--type T] [--rounds R]``.

Ports are added and removed by ovs-vsctl, B in a transaction, under Debian's ovsdb-server and penstock-vswitchd in a
namespace, round after round. Told are the seconds, and what each process holds after each round: descriptors, threads
and memory.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.demo.hosts import Host
from penstock.peers.ovsdb import Vswitchd

TYPES = ("dummy", "internal", "patch")


@dataclass(frozen=True)
class Holding:
    """What a process holds; memory is its resident set in KiB."""

    descriptors: int
    threads: int
    memory: int


def holdings(parent: int) -> dict[str, Holding]:
    """What a process and those it started hold, by the module that each runs."""
    children = subprocess.run(["pgrep", "-P", str(parent)], text=True, capture_output=True, check=False).stdout.split()
    return {_name(pid): _holding(pid) for pid in (parent, *map(int, children))}


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return f"{words[words.index('-m') + 1] if '-m' in words else words[0]} {pid}"


def _holding(pid: int) -> Holding:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return Holding(
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), int(status["Threads"]), int(status["VmRSS"].split()[0])
    )


def transactions(names: Sequence[str], batch: int, kind: str) -> tuple[list[list[str]], list[list[str]]]:
    """The words for ovs-vsctl that add ports, and those that remove them, by transaction."""
    adding, removing = [], []
    for at in range(0, len(names), batch):
        add: list[str] = []
        for index, name in enumerate(names[at : at + batch], at):
            add += ["--", "add-port", "br0", name, "--", "set", "interface", name, f"type={kind}"]
            if kind == "patch":
                add.append(f"options:peer={names[index ^ 1]}")
        adding.append(add)
        removing.append([word for name in names[at : at + batch] for word in ("--", "del-port", "br0", name)])
    return adding, removing


def run_all(switch: Vswitchd, each: Sequence[Sequence[str]]) -> float:
    """Carry out transactions one after another; the seconds that took."""
    begin = time.monotonic()
    for words in each:
        switch.vsctl(*words, timeout=130)
    return time.monotonic() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=1000, help="how many, an even number for patch ports")
    parser.add_argument("--batch", type=int, default=50, help="ports in a transaction")
    parser.add_argument("--type", choices=TYPES, default="dummy")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    # The daemon is detached: told to end, this has to end it too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("told to end"))
    names = [f"p{index}" for index in range(arguments.ports)]
    adding, removing = transactions(names, arguments.batch, arguments.type)
    with tempfile.TemporaryDirectory() as name, Host("vswitchd") as host:
        switch = Vswitchd(host, Path(name))
        try:
            switch.vsctl("add-br", "br0")
            for number in range(1, arguments.rounds + 1):
                added, removed = run_all(switch, adding), run_all(switch, removing)
                what = f"{len(names)} {arguments.type} ports"
                print(f"round {number}: {what} added in {added:.1f} s, removed in {removed:.1f} s")
                for process, holding in holdings(switch.supervisor).items():
                    print(f"  {process}: {holding}", flush=True)
        finally:
            switch.close()


if __name__ == "__main__":
    main()
