"""Into a bridge: a parsed burst goes to the pipeline of its bridge, or to NORMAL when it has none."""

from __future__ import annotations

from penstock.datapath.clones import drop_all
from penstock.datapath.drops import INGRESS_DOWN
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    COUNTERS_BYTES,
    EGRESS_TUNNEL,
    PORT_BYTES,
    PORT_UP,
    RECEIVED,
    bridge_at,
    counters_at,
    port_at,
    worker_at,
)
from penstock.datapath.tunnel.layout import clear_tunnel
from penstock.machine import call4, inlined, kernel


@inlined
def forward(worker, number, packets, count):
    """Forward a burst of parsed packets that came in by a port which is up."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    bridge = bridge_at(w.bridges + port.bridge * BRIDGE_BYTES)
    if bridge.pipeline != 0:
        return call4(w.pipeline, worker, number, packets, count)
    if bridge.tunnels != 0 and port.egress != EGRESS_TUNNEL:
        clear_tunnel(packets, count)
    return call4(w.normal, worker, number, packets, count)


@kernel
def enter(worker, number, packets, count):
    """Have a burst that came by no device enter the bridge of a port, counted as received there."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    octets = call4(w.parse, worker, number, packets, count)
    if w.trace == 0:
        c = counters_at(port.counters + w.index * COUNTERS_BYTES)
        c.rx_packets += count
        c.rx_bytes += octets
        if port.capture != 0:
            capture(worker, number, RECEIVED, packets, count, port.capture)
    if port.state != PORT_UP:
        return drop_all(worker, number, INGRESS_DOWN, count)
    return forward(worker, number, packets, count)
