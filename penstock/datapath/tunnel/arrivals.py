"""Which tunnel port an arriving packet is for: by UDP port or GRE, key, remote and local address (see ARRIVALS)."""

from __future__ import annotations

from penstock.datapath.hashmap import map_find
from penstock.datapath.layout import PORT_BYTES, port_at, worker_at
from penstock.datapath.tunnel.layout import (
    BY_KEY,
    BY_LOCAL,
    BY_REMOTE,
    CLASSES,
    LOCALS4,
    LOCALS6,
    PORTS6,
    SERVICES,
    TUNNEL_LOCAL,
    TUNNEL_REMOTE,
    arrivals_at,
)
from penstock.machine import hash64, inlined, kernel, load32, load64, mulhi_mix, shr

SEEDS = (0x2545F4914F6CDD1D, 0x1B873593CC9E2D51, 0x52F4A9C1E6B7D03B, 0x38495AB5C1F20E67)


@inlined
def is_local4(arrivals, number, address):
    """Whether an IPv4 address, in memory order, is one of an internal port's device."""
    word = address | number << 32
    found = 0
    for i in range(arrivals_at(arrivals).local4_count):
        if load64(arrivals + LOCALS4 + i * 8) == word:
            found = 1
    return found


@kernel
def is_local6(arrivals, number, at):
    """Whether the IPv6 address at ``at`` is one of an internal port's device."""
    found = 0
    for i in range(arrivals_at(arrivals).local6_count):
        place = arrivals + LOCALS6 + i * 16
        if load64(place) == load64(at) and load64(place + 8) == load64(at + 8):
            found |= int(load64(arrivals + PORTS6 + i * 8) == number)
    return found


@inlined
def service_of(arrivals, port):
    """The number of the service at a UDP port, in memory order; -1: none."""
    found = -1
    for i in range(arrivals_at(arrivals).service_count):
        if load64(arrivals + SERVICES + i * 8) & 0xFFFFFFFF == port:
            found = i
    return found


@inlined
def arrival_key(kind, service, key, first, second, third, fourth):
    """The key in the map of what tells packets apart: class, service, tunnel key, and words of remote and local.

    Words that the class does not name are 0. Without addresses the result is exact; with them whoever finds an entry
    compares the addresses.
    """
    word = kind << 60 | service << 40 | key
    if kind & (BY_REMOTE | BY_LOCAL) != 0:
        mixed = mulhi_mix(first ^ SEEDS[0], second ^ SEEDS[1]) ^ mulhi_mix(third ^ SEEDS[2], fourth ^ SEEDS[3])
        word ^= shr(hash64(mixed), 4)
    return word


@kernel
def agrees(tunnel, kind, first, second, third, fourth):
    """Whether a tunnel is for these addresses."""
    if kind & BY_REMOTE != 0:
        if load64(tunnel + TUNNEL_REMOTE) != first or load64(tunnel + TUNNEL_REMOTE + 8) != second:
            return 0
    if kind & BY_LOCAL != 0:
        if load64(tunnel + TUNNEL_LOCAL) != third or load64(tunnel + TUNNEL_LOCAL + 8) != fourth:
            return 0
    return 1


@kernel
def find_arrival(worker, arrivals, service, key, first, second, third, fourth):
    """The value in the map for a packet: by the first class that has one; 0: none."""
    w = worker_at(worker)
    a = arrivals_at(arrivals)
    for i in range(a.class_count):
        kind = load64(arrivals + CLASSES + i * 8)
        wanted = key if kind & BY_KEY != 0 else 0
        r1 = first if kind & BY_REMOTE != 0 else 0
        r2 = second if kind & BY_REMOTE != 0 else 0
        l1 = third if kind & BY_LOCAL != 0 else 0
        l2 = fourth if kind & BY_LOCAL != 0 else 0
        found = map_find(a.map, arrival_key(kind | 8, service, wanted, r1, r2, l1, l2))
        if found != 0:
            tunnel = port_at(w.ports + (found & 0xFFFF) * PORT_BYTES).tunnel
            if tunnel != 0 and agrees(tunnel, kind, r1, r2, l1, l2) == 1:
                return found
    return 0


@inlined
def find_arrival_again(worker, arrivals, service, key, l3, six):
    """The same, which is that of the packet before when the two agree in all that tells. ``forget_arrival`` begins."""
    w = worker_at(worker)
    second = 0
    fourth = 0
    if six == 0:
        first = load32(l3 + 12)
        third = load32(l3 + 16)
    else:
        first = load64(l3 + 8)
        second = load64(l3 + 16)
        third = load64(l3 + 24)
        fourth = load64(l3 + 32)
    key_word = service << 40 | key
    differs = (w.seen_first ^ first) | (w.seen_second ^ second) | (w.seen_third ^ third) | (w.seen_fourth ^ fourth)
    if differs | (w.seen_key ^ key_word) != 0:
        w.seen_first = first
        w.seen_second = second
        w.seen_third = third
        w.seen_fourth = fourth
        w.seen_key = key_word
        w.seen = find_arrival(worker, arrivals, service, key, first, second, third, fourth)
    return w.seen


@inlined
def forget_arrival(worker):
    """Have the next packet's arrival looked up: the map may have changed."""
    worker_at(worker).seen_key = -1
    return 0
