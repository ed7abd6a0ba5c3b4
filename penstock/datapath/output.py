"""Output bursts: packets queued per port during a turn, and the list of ports that have some."""

from __future__ import annotations

from penstock.datapath.clones import drop
from penstock.datapath.drops import PATCH_FULL
from penstock.datapath.layout import BURST, OUTPUT_BYTES, OUTPUT_PACKETS, PORT_BYTES, output_at, port_at, worker_at
from penstock.machine import call2, copy, inlined, kernel, load32, store32, store64


@inlined
def append(worker, number, packet):
    """Queue a packet for a port; a full burst is sent at once."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    if o.count == BURST:
        if port_at(w.ports + number * PORT_BYTES).peer >= -1:
            return drop(worker, number, PATCH_FULL)
        call2(w.transmit, worker, number)  # and it stays on the list
    elif o.count == 0:
        store32(w.dirty + w.dirty_count * 4, number)
        w.dirty_count += 1
    store64(output + OUTPUT_PACKETS + o.count * 8, packet)
    o.count += 1
    return 0


@kernel
def take_patch_burst(worker, number):
    """Move a patch port's output to ``patched``: the number of packets."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    count = o.count
    o.count = 0
    copy(w.patched, output + OUTPUT_PACKETS, count * 8)
    return count


@kernel
def next_dirty(worker):
    """Take a port with output off the list: its number, or -1."""
    w = worker_at(worker)
    if w.dirty_count == 0:
        return -1
    w.dirty_count -= 1
    return load32(w.dirty + w.dirty_count * 4)
