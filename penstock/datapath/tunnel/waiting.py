"""What the main thread does to words that workers write too."""

from __future__ import annotations

from penstock.datapath.tunnel.layout import WAITING
from penstock.machine import atomic_add, entry


@entry("int64(int64, int64)")
def end_waiting(endpoint, packets):
    """Packets that waited for an endpoint were given back or dropped: how many waited before."""
    return atomic_add(endpoint + WAITING, -packets)
