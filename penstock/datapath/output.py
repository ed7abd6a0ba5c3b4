"""Output bursts: packets queued per port during a turn, and the list of ports that have some.

A full burst for a device is sent at once. That of a port whose packets go elsewhere cannot be: other bursts are being
forwarded just then. What is too much for it is put ``aside`` until ``flush`` has come to it.
"""

from __future__ import annotations

from penstock.datapath.layout import (
    BURST,
    EGRESS_DEVICE,
    OUTPUT_BYTES,
    OUTPUT_PACKETS,
    PORT_BYTES,
    output_at,
    port_at,
    worker_at,
)
from penstock.machine import call2, copy, inlined, kernel, load32, load64, store32, store64


@kernel
def put_aside(worker, number, packet):
    """Keep a packet until the port's burst has been emptied."""
    w = worker_at(worker)
    place = w.aside + w.aside_count * 16
    store64(place, number)
    store64(place + 8, packet)
    w.aside_count += 1
    return 0


@inlined
def append(worker, number, packet):
    """Queue a packet for a port."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    if o.count == BURST:
        if port_at(w.ports + number * PORT_BYTES).egress != EGRESS_DEVICE:
            return put_aside(worker, number, packet)
        call2(w.transmit, worker, number)  # and it stays on the list
    elif o.count == 0:
        store32(w.dirty + w.dirty_count * 4, number)
        w.dirty_count += 1
    store64(output + OUTPUT_PACKETS + o.count * 8, packet)
    o.count += 1
    return 0


@kernel
def take_back(worker):
    """Queue again what was put aside, as far as there is room now."""
    w = worker_at(worker)
    count = w.aside_count
    w.aside_count = 0
    for i in range(count):
        # Never more is put aside again than was read already.
        append(worker, load64(w.aside + i * 16), load64(w.aside + i * 16 + 8))
    return 0


@kernel
def take_burst(worker, number):
    """Move the output of a port to ``arrived``: the number of packets."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    count = o.count
    o.count = 0
    copy(w.arrived, output + OUTPUT_PACKETS, count * 8)
    return count


@kernel
def next_dirty(worker):
    """Take a port with output off the list: its number, or -1."""
    w = worker_at(worker)
    if w.dirty_count == 0:
        return -1
    w.dirty_count -= 1
    return load32(w.dirty + w.dirty_count * 4)


@kernel
def block(worker, number):
    """Have a port wait, with the rest of its output, until everything else was sent."""
    w = worker_at(worker)
    store32(w.blocked + w.blocked_count * 4, number)
    w.blocked_count += 1
    return 0


@kernel
def unblock(worker):
    """Put the ports that waited on the list again."""
    w = worker_at(worker)
    copy(w.dirty, w.blocked, w.blocked_count * 4)
    w.dirty_count = w.blocked_count
    w.blocked_count = 0
    return 0
