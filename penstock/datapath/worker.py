"""The worker loop: one thread, one compiled function, no Python and no GIL while it runs.

A turn asks every queue without a descriptor, and those of the others that are active; epoll tells which of the quiet
ones have frames now. A queue leaves the active list when it gave less than a full burst, or, if it has to be armed (a
guest's, which is spared kicks while we look ourselves), when it was empty for as long as an idle worker polls. At the
start of a turn the worker adds one to ``turns`` and reads its list of queues again: when the main thread has replaced
the list (or any pointer that workers follow) and has seen a later turn begin, nothing old is in use. An idle worker
sleeps in epoll_wait until a descriptor is ready or its kick eventfd is written.
"""

from __future__ import annotations

import platform

from penstock.datapath.afterwards import run_afterwards
from penstock.datapath.bridging import forward
from penstock.datapath.clones import drop, free_clones
from penstock.datapath.drops import INGRESS_DOWN
from penstock.datapath.layout import (
    BURST,
    EVENTS_MAX,
    FRAME_RECORD,
    LIST_QUEUES,
    POLL_ADAPTIVE,
    POLL_BUSY,
    PORT_BYTES,
    PORT_UP,
    RUNNING,
    SLEEPING,
    WORKER_QUEUES,
    WORKER_STATE,
    WORKER_STOP,
    WORKER_TURN_CYCLES,
    WORKER_TURNS,
    list_at,
    port_at,
    rxq_at,
    worker_at,
)
from penstock.datapath.sending import run_answers, run_packet_out
from penstock.datapath.stages import run_burst
from penstock.machine import (
    call1,
    call4,
    clz,
    cycles,
    entry,
    fence,
    kernel,
    load64,
    load_acquire,
    monotonic_ns,
    pause,
    store64,
    store_release,
    sys_epoll_ctl,
    sys_epoll_wait,
    sys_read,
)
from penstock.memory import record_peek

# struct epoll_event is packed on x86-64 only.
EVENT_DATA, EVENT_BYTES = (4, 12) if platform.machine() == "x86_64" else (8, 16)
EPOLL_CTL_DEL = 2
NANOSECONDS = 1_000_000_000
EPOLL_EVERY = 7  # turns (less one) between looks at the quiet queues while others are busy
RECORD_BYTES = FRAME_RECORD.itemsize
SLEEP_MILLISECONDS = 1000


@kernel
def update_clock(worker, now_cycles):
    """Set the coarse clock that ages FDB entries."""
    w = worker_at(worker)
    w.now = monotonic_ns() // NANOSECONDS
    w.clock_cycles = now_cycles
    return 0


@kernel
def take_events(worker, count):
    """Put the queues that epoll named on the active list; drain the kick."""
    w = worker_at(worker)
    for i in range(count):
        rxq = load64(w.events + i * EVENT_BYTES + EVENT_DATA)
        if rxq == 0:
            sys_read(w.kick, w.events + EVENTS_MAX * EVENT_BYTES, 8)
            continue
        q = rxq_at(rxq)
        if q.active == 0:
            q.active = 1
            store64(w.active + w.active_count * 8, rxq)
            w.active_count += 1
    return 0


@kernel
def stays_polled(worker, rxq, count, now):
    """Whether a queue that has to be armed is looked at in the next turn too."""
    w = worker_at(worker)
    q = rxq_at(rxq)
    if count < 0:
        return 0
    if count > 0 or w.poll == POLL_BUSY:
        q.quiet_since = 0
        return 1
    if q.quiet_since == 0:
        q.quiet_since = now
        return 1
    if now - q.quiet_since <= w.spin_cycles:
        return 1
    q.quiet_since = 0
    return call1(q.arm, rxq)


@kernel
def run_active(worker, now):
    """One burst of every active queue; those found quiet leave the list. Packets received."""
    w = worker_at(worker)
    received = 0
    i = 0
    while i < w.active_count:
        rxq = load64(w.active + i * 8)
        q = rxq_at(rxq)
        count = run_burst(worker, rxq)
        if count > 0:
            received += count
        if count == BURST or (q.arm != 0 and stays_polled(worker, rxq, count, now) == 1):
            i += 1
            continue
        q.active = 0
        w.active_count -= 1
        store64(w.active + i * 8, load64(w.active + w.active_count * 8))
        if q.error != 0:
            # The device is gone or broken: without this a level-triggered epoll would name it for ever.
            sys_epoll_ctl(w.epoll, EPOLL_CTL_DEL, q.fd, 0)
    return received


@kernel
def may_sleep(worker, queues):
    """After SLEEPING was announced: 1 when really nothing waits."""
    w = worker_at(worker)
    if load_acquire(worker + WORKER_QUEUES) != queues or load_acquire(worker + WORKER_STOP) != 0:
        return 0
    if w.packet_out != 0 and (record_peek(w.packet_out) != 0 or record_peek(w.answers) != 0):
        return 0
    for i in range(list_at(queues).polled):
        rxq = load64(queues + LIST_QUEUES + i * 8)
        if call1(rxq_at(rxq).pending, rxq) != 0:
            return 0
    return 1


@kernel
def sleep(worker, queues):
    """Wait in epoll until something happens."""
    w = worker_at(worker)
    store_release(worker + WORKER_STATE, SLEEPING)
    fence()
    count = 0
    if may_sleep(worker, queues) == 1:
        w.sleeps += 1
        count = sys_epoll_wait(w.epoll, w.events, EVENTS_MAX, SLEEP_MILLISECONDS)
    store_release(worker + WORKER_STATE, RUNNING)
    fence()
    # Events of a list that was replaced meanwhile may name queues that are gone; epoll names the others again.
    if load_acquire(worker + WORKER_QUEUES) == queues:
        take_events(worker, count)
    return 0


@kernel
def begin_turn(worker, queues):
    """Announce the turn; the present list of queues, with the active list emptied when it is a new one."""
    w = worker_at(worker)
    store_release(worker + WORKER_TURNS, w.turns + 1)
    fence()
    current = load_acquire(worker + WORKER_QUEUES)
    if current != queues:
        w.active_count = 0
        for i in range(list_at(current).count):
            rxq = load64(current + LIST_QUEUES + i * 8)
            q = rxq_at(rxq)
            q.active = 0
            if q.arm != 0:
                # It may be in service now, or have been so without asking for wake-ups.
                q.active = 1
                q.quiet_since = 0
                store64(w.active + w.active_count * 8, rxq)
                w.active_count += 1
    return current


@kernel
def count_turn(worker, spent):
    """Note how many cycles a busy turn took."""
    worker_at(worker).busy_cycles += spent
    cell = worker + WORKER_TURN_CYCLES + (63 - clz(spent | 1)) * 8
    store64(cell, load64(cell) + 1)
    return 0


@entry("int64(int64)")
def worker_loop(worker):
    """Forward until ``stop`` is set."""
    w = worker_at(worker)
    queues = 0
    started = cycles()
    w.started = started
    update_clock(worker, started)
    last_work = started
    while load_acquire(worker + WORKER_STOP) == 0:
        queues = begin_turn(worker, queues)
        received = 0
        polled = list_at(queues).polled
        for i in range(polled):
            received += run_burst(worker, load64(queues + LIST_QUEUES + i * 8))
        if list_at(queues).count - polled > w.active_count and (w.active_count == 0 or w.turns & EPOLL_EVERY == 0):
            take_events(worker, sys_epoll_wait(w.epoll, w.events, EVENTS_MAX, 0))
        received += run_active(worker, started)
        received += run_packet_out(worker)
        received += run_answers(worker)
        run_afterwards(w.after)
        now = cycles()
        w.last_cycles = now
        if received != 0:
            w.busy_turns += 1
            count_turn(worker, now - started)
            last_work = now
        elif w.poll == POLL_ADAPTIVE and w.active_count == 0 and now - last_work > w.spin_cycles:
            sleep(worker, queues)
            now = cycles()
            last_work = now
            w.clock_cycles = 0
        else:
            pause()
        if now - w.clock_cycles > w.cycles_hz >> 3:
            update_clock(worker, now)
        started = now
    store_release(worker + WORKER_STATE, SLEEPING)
    return 0


@entry("int64(int64, int64, int64)")
def trace_packet(worker, number, packet):
    """Run the stages on one described packet in a context whose ``trace`` is set; outputs stay in its output bursts."""
    w = worker_at(worker)
    store64(w.burst, packet)
    update_clock(worker, cycles())
    call4(w.parse, worker, number, w.burst, 1)
    if port_at(w.ports + number * PORT_BYTES).state != PORT_UP:
        return drop(worker, number, INGRESS_DOWN)
    forward(worker, number, w.burst, 1)
    return call1(w.flush, worker)


@entry("int64(int64)")
def end_trace(worker):
    """Give back the clones of a traced packet, after what would leave was read."""
    return free_clones(worker)
