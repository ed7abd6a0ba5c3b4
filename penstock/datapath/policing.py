"""Ingress policing: what comes in by a port beyond its limits is dropped before the bridge sees it.

A POLICER is two buckets, as meters have them (``pipeline.meters``): one of kilobits, one of packets, each with the
room that its burst says; a bucket without a band limits nothing. Workers share them under their locks.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.clones import drop
from penstock.datapath.drops import INGRESS_POLICED
from penstock.datapath.layout import packet_at, worker_at
from penstock.datapath.pipeline.meters import METER_BANDS, NO_BAND, meter_bands_at, spend
from penstock.machine import kernel, load64, offset, store64

POLICER = np.dtype([("kilobits", METER_BANDS), ("packets", METER_BANDS)], align=True)
PACKETS_AT = offset(POLICER, "packets")


@kernel
def exceeds(bands, cost):
    """Whether a bucket has no room for what costs so much; else that is taken from it."""
    return meter_bands_at(bands).count != 0 and spend(bands, cost) != NO_BAND


@kernel
def police(worker, number, packets, count, policer):
    """List at ``policed`` the packets of a burst that a port's POLICER lets in: how many.

    The burst's own list stays as it is: the queues fill the packets in its order for as long as the worker runs.
    """
    w = worker_at(worker)
    kept = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        kilobits = (p.head_len + p.tail_len) * 8 * w.cycles_hz // 1000
        if exceeds(policer, kilobits) or exceeds(policer + PACKETS_AT, w.cycles_hz):
            drop(worker, number, INGRESS_POLICED)
        else:
            store64(w.policed + kept * 8, packet)
            kept += 1
    return kept
