"""Meters: token buckets that drop packets above a rate, or mark them as the first to be dropped by others.

OpenFlow 1.3.5, section 5.7. Every band has a bucket of its own and every packet is held against all of them; of the
bands whose bucket is too empty for it the one with the highest rate is applied. A bucket holds ``burst``, or one second
of ``rate`` when that is 0, as Open vSwitch's does. A packet counts once and with the length that it has, a large
segment too. The bucket's unit is a packet, or a kilobit, times the cycles in a second, so that a refill is one
multiplication. Workers share a meter under its lock; the control process writes the rest before a flow names it, and
replaces all bands at once.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.layout import packet_at, worker_at
from penstock.datapath.pipeline.follow import TOS, follow, has
from penstock.datapath.pipeline.layout import exec_at
from penstock.datapath.pipeline.lookup import count_flow
from penstock.datapath.pipeline.program import SET_TOS
from penstock.machine import cas, cycles, kernel, load8, load_acquire, offset, pause, store8, store_release, view

BANDS_MAX = 8
BAND_DROP, BAND_DSCP_REMARK = 1, 2
METER_KBPS, METER_PKTPS = 1, 2
BURST_LIMIT = 1 << 31
BAND = np.dtype(
    [
        ("bucket", "i8"),
        ("limit", "i8"),  # what the bucket holds
        ("rate", "i8"),  # packets or kilobits in a second
        ("kind", "i8"),  # BAND_
        ("level", "i8"),  # of drop precedence that a remark adds
        ("id", "i8"),  # of its counters
        ("burst", "i8"),  # as the controller gave it
    ],
    align=True,
)
METER = np.dtype(
    [
        ("bands", "i8"),  # address of METER_BANDS
        ("id", "i8"),  # of its counters
        ("number", "i8"),
        ("created", "i8"),  # CLOCK_MONOTONIC, nanoseconds
        ("next", "i8"),  # in the list of its pipeline's
    ],
    align=True,
)
# What a meter is; replaced as a whole.
METER_BANDS = np.dtype(
    [
        ("lock", "i8"),
        ("last", "i8"),  # cycle counter at the last refill
        ("kbps", "i8"),  # 1: rates are kilobits, 0: packets
        ("count", "i8"),
        ("flags", "i8"),  # as the controller gave them
        ("pad", "i8", 3),
        ("bands", BAND, BANDS_MAX),
    ],
    align=True,
)
BANDS_AT, BAND_BYTES = offset(METER_BANDS, "bands"), BAND.itemsize
METER_DROP = 1
NO_BAND = -1
PRECEDENCE_MAX = 3

band_at = view(BAND)
meter_at = view(METER)
meter_bands_at = view(METER_BANDS)


@kernel
def take_tokens(address, cost, now):
    """Refill all buckets and take ``cost`` from those that have it: the band to apply, or NO_BAND."""
    m = meter_bands_at(address)
    spent = now - m.last
    if spent < 0:
        spent = 0
    else:
        m.last = now
    chosen = NO_BAND
    highest = -1
    for i in range(m.count):
        b = band_at(address + BANDS_AT + i * BAND_BYTES)
        if spent > b.limit // b.rate:
            b.bucket = b.limit
        else:
            b.bucket += spent * b.rate
            if b.bucket > b.limit:
                b.bucket = b.limit
        if b.bucket >= cost:
            b.bucket -= cost
        elif b.rate > highest:
            highest = b.rate
            chosen = i
    return chosen


@kernel
def spend(address, cost):
    """``take_tokens`` of buckets that workers share, now."""
    while cas(address, 0, 1) == 0:
        pause()
    chosen = take_tokens(address, cost, cycles())
    store_release(address, 0)
    return chosen


@kernel
def remark(packet, level):
    """Raise the drop precedence of a packet with an assured-forwarding code point (RFC 2597), at the most to 3."""
    if has(packet, SET_TOS) == 0:
        return 0
    place = packet_at(packet).key + TOS
    tos = load8(place)
    precedence = tos >> 3 & 3
    if tos >> 5 < 1 or tos >> 5 > 4 or precedence == 0 or tos & 4 != 0:
        return 0
    precedence += level
    if precedence > PRECEDENCE_MAX:
        precedence = PRECEDENCE_MAX
    store8(place, tos & ~0x18 | precedence << 3)
    return follow(packet, SET_TOS)


@kernel
def meter(worker, address, packet):
    """Hold a packet against a meter: 0, or METER_DROP."""
    w = worker_at(worker)
    if w.trace != 0:
        return 0
    bands = load_acquire(address)
    m = meter_bands_at(bands)
    p = packet_at(packet)
    octets = p.head_len + p.tail_len
    cost = w.cycles_hz
    if m.kbps != 0:
        cost = octets * 8 * w.cycles_hz // 1000
    chosen = spend(bands, cost)
    counters = exec_at(w.exec).counters
    count_flow(counters, meter_at(address).id, 1, octets, w.now)
    if chosen == NO_BAND:
        return 0
    b = band_at(bands + BANDS_AT + chosen * BAND_BYTES)
    count_flow(counters, b.id, 1, octets, w.now)
    if b.kind == BAND_DROP:
        return METER_DROP
    remark(packet, b.level)
    return 0
