"""The loop of a traffic thread: gives each task its turn until it is stopped; naps when nothing is to be done.

A nap ends when a frame arrives at a watched descriptor, when a task must run again, or after a while anyhow: the main
thread sets ``stop`` and waits so long. LOOP belongs to the thread that runs it.
"""

from __future__ import annotations

from penstock.datapath.layout import rxq_at
from penstock.machine import call1, cycles, entry, fence, kernel, load64, load_acquire, pause, sys_poll
from penstock.traffic.layout import LOOP_STOP, NEVER, TASK_BYTES, loop_at, task_at


@kernel
def soonest_wake(loop):
    """When the first task must run again, by the cycle counter."""
    x = loop_at(loop)
    soonest = NEVER
    for i in range(x.task_count):
        wake = load64(task_at(x.tasks + i * TASK_BYTES).ctx)
        if wake < soonest:
            soonest = wake
    return soonest


@kernel
def anything_waits(loop):
    """Whether a queue that can be asked says that frames wait."""
    x = loop_at(loop)
    for i in range(x.queue_count):
        rxq = load64(x.queues + i * 8)
        if call1(rxq_at(rxq).pending, rxq) != 0:
            return 1
    return 0


@kernel
def nap(loop, now):
    """Sleep in poll(2) if there is time for it."""
    x = loop_at(loop)
    milliseconds = (soonest_wake(loop) - now) // x.millisecond - 1
    if milliseconds > x.nap:
        milliseconds = x.nap
    if milliseconds <= 0 or anything_waits(loop) == 1:
        return pause()
    fence()
    x.naps += 1
    return sys_poll(x.fds, x.fd_count, milliseconds)


@entry("int64(int64)")
def traffic_loop(loop):
    """Run the tasks until ``stop`` is set."""
    x = loop_at(loop)
    started = cycles()
    x.started = started
    worked = started
    while load_acquire(loop + LOOP_STOP) == 0:
        done = 0
        for i in range(x.task_count):
            task = task_at(x.tasks + i * TASK_BYTES)
            done += call1(task.turn, task.ctx)
        x.turns += 1
        now = cycles()
        x.last = now
        if done > 0:
            x.busy_turns += 1
            x.busy_cycles += now - started
            worked = now
        elif x.spin != 0 and now - worked > x.spin:
            nap(loop, now)
            worked = now
            now = cycles()
        else:
            pause()
        started = now
    return 0
