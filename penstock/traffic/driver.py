"""Threads that run the compiled loop over the tasks of generators and sinks.

An endpoint is driven by one thread: its queues, and what is sent from a burst just received, are not shared. Main
thread only.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.datapath.layout import RXQ
from penstock.machine import records, store_release
from penstock.memory import Arena
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.generator import Generator
from penstock.traffic.layout import LOOP, LOOP_STOP, POLLFD, TASK
from penstock.traffic.loop_kernels import traffic_loop
from penstock.traffic.sink import Sink

SPIN_SECONDS = 50e-6
NAP_MILLISECONDS, SHORT_NAP_MILLISECONDS = 50, 1
STOP_SECONDS = 5.0


@dataclass
class _Share:
    """What one thread does."""

    cpu: int | None
    endpoints: list[Endpoint] = field(default_factory=list)
    tasks: list[tuple[int, int]] = field(default_factory=list)
    watched: list[Endpoint] = field(default_factory=list)


class Driver:
    """Runs tasks while its ``with`` block lasts. ``cpus``: one pinned thread each; none: one thread, anywhere."""

    def __init__(
        self, arena: Arena, parts: Sequence[Generator | Sink], hz: int, cpus: Sequence[int] = (), busy: bool = False
    ) -> None:
        self.arena = arena
        self.hz = hz
        self.busy = busy
        self._blocks: list[int] = []
        shares = [_Share(cpu) for cpu in cpus] or [_Share(None)]
        for part in parts:
            known = [share for share in shares if part.endpoint in share.endpoints]
            share = known[0] if known else min(shares, key=lambda each: len(each.endpoints))
            if not known:
                share.endpoints.append(part.endpoint)
            share.tasks += part.tasks
            if isinstance(part, Sink):
                share.watched.append(part.endpoint)
        self.loops: list[Any] = []
        self._addresses: list[int] = []
        self._threads: list[threading.Thread] = []
        for share in shares:
            if share.tasks:
                self._prepare(share)

    def __enter__(self) -> Driver:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the loops and wait for them. Raises RuntimeError when one does not end."""
        for address in self._addresses:
            store_release(address + LOOP_STOP, 1)
        for thread in self._threads:
            thread.join(STOP_SECONDS)
            if thread.is_alive():
                raise RuntimeError(f"the loop of {thread.name} did not end in {STOP_SECONDS:g} s")
        for block in self._blocks:
            self.arena.free(block)
        self._blocks, self._addresses, self._threads = [], [], []

    def _prepare(self, share: _Share) -> None:
        """The LOOP of a thread, and the thread."""
        address = self._allocate(LOOP.itemsize)
        row = records(LOOP, address)[0]
        row["tasks"], row["task_count"] = self._allocate(len(share.tasks) * TASK.itemsize), len(share.tasks)
        records(TASK, int(row["tasks"]), len(share.tasks))[:] = share.tasks
        queues = [queue.address for endpoint in share.watched for queue in endpoint.rx]
        rows = [records(RXQ, queue)[0] for queue in queues]
        asked = [queue for queue, each in zip(queues, rows, strict=True) if each["pending"]]
        fds = [(int(each["fd"]), select.POLLIN, 0) for each in rows if each["fd"] >= 0]
        row["queues"], row["queue_count"] = self._allocate(8 * len(asked)), len(asked)
        records(np.dtype(np.int64), int(row["queues"]), len(asked) or 1)[: len(asked)] = asked
        row["fds"], row["fd_count"] = self._allocate(POLLFD.itemsize * len(fds)), len(fds)
        records(POLLFD, int(row["fds"]), len(fds) or 1)[: len(fds)] = fds
        row["spin"] = 0 if self.busy else int(SPIN_SECONDS * self.hz)
        row["millisecond"] = self.hz // 1000
        row["nap"] = NAP_MILLISECONDS if len(fds) == len(rows) else SHORT_NAP_MILLISECONDS
        self.loops.append(row)
        self._addresses.append(address)
        name = f"traffic-{len(self._threads)}"
        self._threads.append(threading.Thread(target=_run, args=(address, share.cpu), name=name, daemon=True))

    def _allocate(self, size: int) -> int:
        address = self.arena.allocate(size)
        self._blocks.append(address)
        return address


def _run(loop: int, cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    traffic_loop(loop)
