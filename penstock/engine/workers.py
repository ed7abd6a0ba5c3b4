"""Worker threads: started pinned, given queues, woken, waited for. Used by the engine's main thread alone.

What workers follow (their lists of queues, ports' and bridges' tables) is replaced by a pointer store; ``quiesce``
then returns when no worker can still hold the old pointer, because each has begun a later turn.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.datapath.layout import (
    COUNTERS_BYTES,
    LIST_QUEUES,
    POLL_ADAPTIVE,
    POLL_BUSY,
    PORT,
    PORT_BYTES,
    RUNNING,
    RXQ,
    RXQ_LIST_MAX,
    WORKER,
    WORKER_ARRIVALS,
    WORKER_BYTES,
    WORKER_STATE,
    WORKER_STOP,
    WORKER_TURNS,
)
from penstock.datapath.pipeline.layout import COUNTER_BYTES, EXEC, FLOWS_MAX, REGION, REGION_BASE
from penstock.datapath.worker import EVENT_BYTES, EVENT_DATA, worker_loop
from penstock.engine.context import cache_bytes, make_clone_pool, make_exec, make_worker
from penstock.machine import (
    full_fence,
    load_acquire,
    measure_cycles_hz,
    records,
    store32,
    store64,
    store_release,
    sys_epoll_ctl,
)
from penstock.memory import Arena, record_ring_bytes, record_ring_init

PACKET_IN_BYTES = 4 << 20
CACHE_SETS = 1 << 15  # of 8 flows: 66 MB for each worker whose bridges have flow tables, taken as it is used
CAPTURE_BYTES = 1 << 22
ASKS_BYTES = 1 << 20
PACKET_OUT_BYTES = 1 << 20
SPIN_SECONDS = 20e-6  # an idle worker polls so long before it sleeps
QUIESCE_SECONDS = 5.0
HUGE_PAGE = 2 << 20
EPOLL_CTL_ADD, EPOLL_CTL_DEL = 1, 2


class Worker:
    """One worker thread and the queues dealt to it."""

    def __init__(self, arena: Arena, address: int, cpu: int | None, row: Any) -> None:
        self.address, self.cpu, self.row = address, cpu, row
        self.queues: list[int] = []
        self._arena = arena
        self._epoll = select.epoll()
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event = ctypes.create_string_buffer(EVENT_BYTES)
        row["cpu"] = -1 if cpu is None else cpu
        row["epoll"], row["kick"] = self._epoll.fileno(), self._kick
        self._control(EPOLL_CTL_ADD, self._kick, 0)
        self._list = 0
        self.publish()
        self._thread = threading.Thread(target=self._run, name=f"worker-{row['index']}", daemon=True)

    def _control(self, operation: int, fd: int, rxq: int, events: int = select.EPOLLIN) -> int:
        event = ctypes.addressof(self._event)
        store32(event, events)
        store64(event + EVENT_DATA, rxq)
        return int(sys_epoll_ctl(self._epoll.fileno(), operation, fd, event))

    def _run(self) -> None:
        if self.cpu is not None:
            os.sched_setaffinity(0, {self.cpu})
        worker_loop(self.address)

    def start(self) -> None:
        """Begin to forward."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop and wait for it."""
        store_release(self.address + WORKER_STOP, 1)
        self.kick()
        if self._thread.is_alive():
            self._thread.join()
        self._epoll.close()
        os.close(self._kick)

    def kick(self) -> None:
        """Wake the worker if it sleeps."""
        os.eventfd_write(self._kick, 1)

    def kick_if_sleeping(self) -> None:
        """Wake the worker if it sleeps or is about to; cheap when it does not."""
        full_fence()
        if load_acquire(self.address + WORKER_STATE) != RUNNING:
            self.kick()

    @property
    def turns(self) -> int:
        return int(load_acquire(self.address + WORKER_TURNS))

    def add_queue(self, rxq: int) -> None:
        """Take a queue into the list; ``publish`` makes it seen."""
        row = records(RXQ, rxq)[0]
        row["scratch"], row["after"] = self.row["rx_scratch"], self.row["after"]
        port = records(PORT, int(self.row["ports"]) + int(row["port"]) * PORT_BYTES)[0]
        row["counters"] = port["counters"] + self.row["index"] * COUNTERS_BYTES
        self.queues.append(rxq)
        try:
            self._watch(rxq)
        except OSError:
            self.queues.remove(rxq)
            raise

    def _watch(self, rxq: int) -> None:
        row = records(RXQ, rxq)[0]
        if row["fd"] >= 0:
            # The descriptor of an armed queue is never read: each write to it is one event.
            events = select.EPOLLIN | select.EPOLLET if row["arm"] else select.EPOLLIN
            error = self._control(EPOLL_CTL_ADD, int(row["fd"]), rxq, events)
            if error < 0:
                raise OSError(-error, os.strerror(-error))

    def watch_queue(self, rxq: int, fd: int) -> None:
        """Have another descriptor wake the queue from now on; -1 for none. The old one may be closed afterwards."""
        row = records(RXQ, rxq)[0]
        if row["fd"] >= 0:
            self._control(EPOLL_CTL_DEL, int(row["fd"]), 0)
        row["fd"] = fd
        self._watch(rxq)

    def remove_queue(self, rxq: int) -> None:
        """Take a queue off the list; ``publish``, then ``quiesce``, and it is no longer used."""
        self.queues.remove(rxq)
        fd = int(records(RXQ, rxq)[0]["fd"])
        if fd >= 0:
            # The worker itself took a broken queue's descriptor off, and a closed descriptor leaves epoll by itself.
            self._control(EPOLL_CTL_DEL, fd, 0)

    def publish(self) -> int:
        """Have the worker follow the list as it is now; the old list, to be freed after a quiet point, or 0."""
        polled = [rxq for rxq in self.queues if records(RXQ, rxq)[0]["pending"]]
        watched = [rxq for rxq in self.queues if rxq not in set(polled)]
        if len(self.queues) > RXQ_LIST_MAX:
            raise ValueError(f"worker {self.row['index']}: more than {RXQ_LIST_MAX} receive queues")
        new = self._arena.allocate(LIST_QUEUES + len(self.queues) * 8)
        store64(new, len(polled))
        store64(new + 8, len(self.queues))
        records(np.dtype(np.int64), new + LIST_QUEUES, len(self.queues) or 1)[: len(self.queues)] = polled + watched
        old, self._list = self._list, new
        store_release(self.address + WORKER.fields["queues"][1], new)  # type: ignore[index]
        self.kick()
        return old


class Workers:
    """All workers of the engine."""

    def __init__(self, arena: Arena, count: int, cpus: Sequence[int], poll: str, ports: int, bridges: int) -> None:
        self._arena = arena
        self.cycles_hz = measure_cycles_hz()
        self.table = arena.allocate(count * WORKER_BYTES)
        pool = make_clone_pool(arena.allocate, count)
        self.packet_in_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.packet_out = self._record_ring(PACKET_OUT_BYTES)
        self.asks_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.asks: list[int] = []
        self.answers = self._record_ring(ASKS_BYTES)
        self.all: list[Worker] = []
        self._caches: list[mmap.mmap] = []
        if not cpus and (count > 1 or poll == "busy"):
            # One adaptive worker is left to the scheduler, which knows better what else runs; others must not collide.
            cpus = sorted(os.sched_getaffinity(0), reverse=True)
        for index in range(count):
            address = self.table + index * WORKER_BYTES
            row = make_worker(arena.allocate, address, index, pool)
            row["ports"], row["bridges"] = ports, bridges
            row["packet_in_fd"] = self.packet_in_fd
            row["packet_in"], row["captures"] = self._record_ring(PACKET_IN_BYTES), self._record_ring(CAPTURE_BYTES)
            row["packet_out"] = self.packet_out if index == 0 else 0
            row["answers"] = self.answers if index == 0 else 0
            row["asks"], row["asks_fd"] = self._record_ring(ASKS_BYTES), self.asks_fd
            self.asks.append(int(row["asks"]))
            row["exec"] = make_exec(arena.allocate, index, self._cache(), CACHE_SETS)
            row["cycles_hz"] = self.cycles_hz
            row["poll"] = POLL_BUSY if poll == "busy" else POLL_ADAPTIVE
            row["spin_cycles"] = int(self.cycles_hz * SPIN_SECONDS)
            self.all.append(Worker(arena, address, cpus[index % len(cpus)] if cpus else None, row))
        for worker in self.all:
            worker.start()

    def _record_ring(self, size: int) -> int:
        ring = self._arena.allocate(record_ring_bytes(size))
        record_ring_init(ring, size)
        return ring

    def _cache(self) -> int:
        """Memory for a worker's flow cache, which nobody else needs to see; on huge pages if the kernel has some."""
        memory = mmap.mmap(-1, cache_bytes(CACHE_SETS) + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        self._caches.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return -(-address // HUGE_PAGE) * HUGE_PAGE

    def use_region(self) -> None:
        """Have workers count in the region of flow tables, which is mapped now."""
        counters = int(records(REGION, REGION_BASE)[0]["counters"])
        for worker in self.all:
            row = records(EXEC, int(worker.row["exec"]))[0]
            row["counters"] = counters + int(row["index"]) * FLOWS_MAX * COUNTER_BYTES

    def stop(self) -> None:
        """End all workers."""
        for worker in self.all:
            worker.stop()
        os.close(self.packet_in_fd)
        os.close(self.asks_fd)

    def publish_arrivals(self, address: int) -> None:
        """Show workers what tunnels end here; what they followed before is in use until a quiet point."""
        for worker in self.all:
            store_release(worker.address + WORKER_ARRIVALS, address)

    def deal(self, rxq: int) -> None:
        """Give a receive queue to the worker that has the fewest."""
        min(self.all, key=lambda worker: len(worker.queues)).add_queue(rxq)

    def withdraw(self, rxq: int) -> None:
        """Take a receive queue from its worker."""
        for worker in self.all:
            if rxq in worker.queues:
                worker.remove_queue(rxq)

    def watch(self, rxq: int, fd: int) -> None:
        """Have a descriptor wake a queue that has to be armed; -1 for none."""
        for worker in self.all:
            if rxq in worker.queues:
                worker.watch_queue(rxq, fd)

    def publish(self) -> None:
        """Have all workers follow their lists as they are now; on return no old list is in use."""
        old = self.publish_lists()
        self.quiesce()
        for each in old:
            self._arena.free(each)

    def publish_lists(self) -> list[int]:
        """Have all workers follow their lists as they are now; the old lists, to be freed after a quiet point."""
        return [worker.publish() for worker in self.all]

    def kick(self) -> None:
        """Wake every sleeping worker."""
        for worker in self.all:
            worker.kick_if_sleeping()

    def quiesce(self) -> None:
        """Return when nothing that workers could follow before this call is in use. Raises RuntimeError when stuck.

        A worker that sleeps is woken for a turn: between saying so and waiting it still looks at its old queues.
        """
        full_fence()
        deadline = time.monotonic() + QUIESCE_SECONDS
        before = [worker.turns for worker in self.all]
        for worker, turns in zip(self.all, before, strict=True):
            while worker.turns == turns:
                worker.kick_if_sleeping()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"worker {worker.row['index']} did not begin a turn in {QUIESCE_SECONDS} s")
                time.sleep(20e-6)
