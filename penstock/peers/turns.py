"""Let several subjects, each a host full of busy processes, have the same CPUs by turns.

All are set up, then all but one are stopped: a turn costs no start, so the turns of a round lie within a second or two
of each other and what the machine's other tenants do to one they do to all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.demo.hosts import Host


def descendants(root: int) -> list[int]:
    """The process ids of a process and of all that it and its children started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                # The name, in brackets, may itself hold brackets and spaces.
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                parents.setdefault(int(parent), []).append(int(entry.name))
    found = [root]
    for each in found:
        found += parents.get(each, [])
    return found


def _signal(host: Host, number: signal.Signals) -> None:
    for started in host.processes:
        if started.poll() is None:
            for pid in descendants(started.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def pause(host: Host) -> None:
    """Stop everything that runs in a host."""
    _signal(host, signal.SIGSTOP)


def resume(host: Host) -> None:
    """Let it go on."""
    _signal(host, signal.SIGCONT)


@contextmanager
def turn(host: Host) -> Iterator[None]:
    """The CPUs are this host's within the block."""
    resume(host)
    try:
        yield
    finally:
        pause(host)
