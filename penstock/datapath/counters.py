"""Counting sent and dropped frames: one COUNTERS per port and worker, so no atomics and no lost counts."""

from __future__ import annotations

from penstock.datapath.layout import COUNTER_DROPS, counters_at
from penstock.machine import inlined, kernel, load64, store64


@inlined
def count_tx(counters, packets, octets):
    """Count frames that left."""
    c = counters_at(counters)
    c.tx_packets += packets
    c.tx_bytes += octets
    return 0


@kernel
def count_drop(counters, reason, packets):
    """Count frames dropped for one of the reasons of ``drops.REASONS``."""
    cell = counters + COUNTER_DROPS + reason * 8
    store64(cell, load64(cell) + packets)
    return 0
