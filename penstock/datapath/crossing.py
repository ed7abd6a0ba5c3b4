"""What leaves a port for elsewhere than a device: into the bridge of a patch port's peer, into a tunnel and out by the
underlay's bridge, or out of a tunnel that ends here and into the overlay's bridge.

``cross`` is called by address for each output burst of such a port. All of it happens in the turn in which the packet
came, without a queue between.
"""

from __future__ import annotations

from penstock.datapath.bridging import enter
from penstock.datapath.clones import drop, drop_all
from penstock.datapath.drops import NO_PEER, PATCH_LOOP
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    COUNTERS_BYTES,
    DEPTH_MAX,
    EGRESS_PATCH,
    EGRESS_TUNNEL,
    OUTPUT_BYTES,
    OUTPUT_PACKETS,
    PORT_BYTES,
    TRANSMITTED,
    WORKER_ARRIVALS,
    counters_at,
    output_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import take_burst
from penstock.datapath.trace import CROSSES_PATCH, DECAPSULATED, note
from penstock.datapath.tunnel.arrivals import forget_arrival
from penstock.datapath.tunnel.find import note_remote
from penstock.datapath.tunnel.layout import BY_VLAN, tunnel_at
from penstock.datapath.tunnel.pop import NOT_OURS, decapsulate
from penstock.datapath.tunnel.send import send_into_tunnel
from penstock.machine import call2, entry, kernel, load64, load_acquire, store64


@kernel
def cross_patch(worker, number):
    """Forward what left by a patch port in the bridge of its peer."""
    w = worker_at(worker)
    count = take_burst(worker, number)
    out = port_at(w.ports + number * PORT_BYTES)
    peer = out.peer
    if peer < 0:
        return drop_all(worker, number, NO_PEER, count)
    if out.capture != 0 and w.trace == 0:
        capture(worker, number, TRANSMITTED, w.arrived, count, out.capture)
    kept = 0
    octets = 0
    for i in range(count):
        packet = load64(w.arrived + i * 8)
        p = packet_at(packet)
        octets += p.head_len + p.tail_len
        if p.depth == DEPTH_MAX:
            drop(worker, peer, PATCH_LOOP)
            continue
        p.depth += 1
        p.remote = 0
        w.crossed = 1
        store64(w.patched + kept * 8, packet)
        kept += 1
        if w.trace != 0:
            note(w.trace, CROSSES_PATCH, peer, 0)
    if w.trace == 0:
        left = counters_at(out.counters + w.index * COUNTERS_BYTES)
        left.tx_packets += count
        left.tx_bytes += octets
    return enter(worker, peer, w.patched, kept)


@kernel
def arrive(worker, number):
    """Unpack what came by tunnels that end at a port's addresses; its device gets the rest.

    Packets of one tunnel port that follow one another enter its bridge as a burst.
    """
    w = worker_at(worker)
    arrivals = load_acquire(worker + WORKER_ARRIVALS)
    if arrivals == 0:
        return call2(w.transmit, worker, number)
    output = w.outputs + number * OUTPUT_BYTES
    count = take_burst(worker, number)
    forget_arrival(worker)
    host = 0
    kept = 0
    for i in range(count):
        packet = load64(w.arrived + i * 8)
        target = decapsulate(worker, arrivals, number, packet)
        if target == NOT_OURS:
            store64(output + OUTPUT_PACKETS + host * 8, packet)
            host += 1
        elif target > 0:
            p = packet_at(packet)
            if p.depth == DEPTH_MAX:
                drop(worker, target, PATCH_LOOP)
                continue
            p.depth += 1
            p.in_port = target
            if tunnel_at(port_at(w.ports + target * PORT_BYTES).tunnel).flags & BY_VLAN != 0:
                note_remote(worker, target, packet)
            store64(w.arrived + kept * 8, packet)
            kept += 1
            if w.trace != 0:
                note(w.trace, DECAPSULATED, target, 0)
    if host != 0:
        output_at(output).count = host
        call2(w.transmit, worker, number)
    if kept == 0:
        return 0
    w.crossed = 1
    into = packet_at(load64(w.arrived)).in_port
    run = 0
    for i in range(kept):
        packet = load64(w.arrived + i * 8)
        target = packet_at(packet).in_port
        if target != into:
            enter(worker, into, w.patched, run)
            run = 0
            into = target
        store64(w.patched + run * 8, packet)
        run += 1
    return enter(worker, into, w.patched, run)


@entry("int64(int64, int64)")
def cross(worker, number):
    """Empty the output burst of a port whose packets do not (all) go to a device."""
    egress = port_at(worker_at(worker).ports + number * PORT_BYTES).egress
    if egress == EGRESS_PATCH:
        return cross_patch(worker, number)
    if egress == EGRESS_TUNNEL:
        return send_into_tunnel(worker, number)
    return arrive(worker, number)
