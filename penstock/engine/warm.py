"""Fills the compile cache: every compiled function of the data plane, one compiler process per CPU, with progress.

What is compiled is what was imported: the engine's entries always, those of other rooms where the caller uses them.
``python -m penstock.engine.warm PARENT`` is a compiler process: it reads names of entries, a line each, answers each
when it is done, and ends with the process PARENT.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import penstock.datapath.worker
import penstock.engine.flow_tables
import penstock.engine.group_tables
import penstock.engine.workers
import penstock.ports
from penstock.machine import ENTRIES, JIT, Entry, cache_lock, mark_warm, warm_entries

# What the control process writes flow tables with is compiled here too.
ENGINE_MODULES = (
    penstock.datapath.worker,
    penstock.engine.flow_tables,
    penstock.engine.group_tables,
    penstock.engine.workers,
    penstock.ports,
)
COMPILED, CACHED = "compiled", "cached"
PROCESSES_MAX = 4
PR_SET_PDEATHSIG = 1

Report = Callable[[int, int, str], None]


def warm(report: Report) -> int:
    """Compile and load all imported entries: how many were compiled. ``report(done, total, name)`` after each.

    Raises RuntimeError when one cannot be compiled.
    """
    if not JIT:
        return 0
    names = {each.name for each in ENTRIES}
    with cache_lock():
        compiled = 0 if names <= warm_entries() else _compile_apart(report)
        for each in ENTRIES:
            each.load()
        mark_warm(names)
    report(len(ENTRIES), len(ENTRIES), "")
    return compiled


def _compile_apart(report: Report) -> int:
    """Deal the entries to compiler processes: how many were not in the cache yet."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for each in reversed(ENTRIES):  # later modules build on earlier ones, so the largest entries come first
        waiting.put(each.name)
    processes = min(len(os.sched_getaffinity(0)), PROCESSES_MAX)
    answers: list[str] = []

    def done(name: str, answer: str) -> None:
        answers.append(answer)
        report(len(answers), len(ENTRIES), name)

    with ThreadPoolExecutor(processes) as threads:
        for finished in [threads.submit(_drive, waiting, done) for _ in range(processes)]:
            finished.result()
    return answers.count(COMPILED)


def _drive(waiting: queue.SimpleQueue[str], done: Callable[[str, str], None]) -> None:
    """Feed one compiler process until nothing waits."""
    command = [sys.executable, "-m", "penstock.engine.warm", str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            if not answer:
                raise RuntimeError(f"{name} could not be compiled: the compiler process ended with {process.wait()}")
            done(name, answer)


def _find(name: str) -> Entry:
    """The entry of this name; imports its module."""
    import_module(f"penstock.{name.rpartition('.')[0]}")
    return next(each for each in ENTRIES if each.name == name)


def main() -> None:
    """Be a compiler process, and end with the one that asked."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return  # it ended before it could take us along
    for line in sys.stdin:
        each = _find(line.strip())
        each.load()
        print(CACHED if each.cached else COMPILED, flush=True)


if __name__ == "__main__":
    main()
