"""Where a packet goes that enters a tunnel: the ENDPOINTs of a burst, each pass fetching what the next one reads.

A far end that is not known (yet) is the main thread's to find: it is handed the packet, and gives it back when it knows
(``worker.run_answers``). WAITING_MAX packets wait for one far end, all of them together in a ring; others are dropped.
"""

from __future__ import annotations

from penstock.datapath.clones import drop
from penstock.datapath.drops import MTU_EXCEEDED, TUNNEL_UNRESOLVED
from penstock.datapath.fragments import copy_packet
from penstock.datapath.hashmap import map_find, map_slot
from penstock.datapath.layout import (
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    PACKET_OFFLOADS,
    PORT_BYTES,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.trace import AWAITS_ENDPOINT, note
from penstock.datapath.tunnel.layout import (
    ADDRESS,
    ASK_BYTES,
    ASK_TUNNEL,
    ASKED,
    ASKS_IN_A_SECOND,
    BY_VLAN,
    HEADER,
    REMOTE_BY_FLOW,
    TOLD_IN_A_SECOND,
    TOLD_MAX,
    TOO_BIG,
    TUNNEL_LOCAL,
    WAITING,
    WAITING_MAX,
    ask_at,
    endpoint_at,
    tunnel_at,
)
from penstock.datapath.tunnel.pop import TUN_IPV6_SRC, TUN_SRC
from penstock.machine import (
    atomic_add,
    copy,
    hash64,
    inlined,
    kernel,
    load32,
    load64,
    load_acquire,
    prefetch,
    shr,
    store64,
    sys_write,
)
from penstock.memory import record_commit, record_reserve
from penstock.packet.fields import TUNNEL_AT, TUNNEL_SIZE

FLOODED = 1  # lowest bit of what find_endpoints gives: it is the address of a FLOOD
ASKED_FOR = 2  # the packet was handed to the main thread, or dropped


@inlined
def endpoint_key6(local, remote):
    """The key in ``endpoints6`` of two IPv6 addresses."""
    first = hash64(hash64(load64(local)) ^ load64(local + 8))
    return hash64(hash64(first ^ load64(remote)) ^ load64(remote + 8)) | 1


@kernel
def find_endpoint6(tunnel, local, remote):
    """The ENDPOINT for the local and the remote IPv6 address at these places, or 0."""
    found = map_find(tunnel_at(tunnel).endpoints6, endpoint_key6(local, remote))
    if found != 0:
        asked = found + ASKED
        for i in range(2):
            if load64(asked + i * 8) != load64(local + i * 8):
                return 0
            if load64(asked + ADDRESS + i * 8) != load64(remote + i * 8):
                return 0
    return found


@kernel
def may_ask(worker, endpoint):
    """Whether the main thread may be asked for more in this second."""
    w = worker_at(worker)
    if w.ask_second != w.now:
        w.ask_second = w.now
        w.ask_count = 0
        w.told_count = 0
    if w.ask_count == ASKS_IN_A_SECOND:
        return 0
    if endpoint == TOO_BIG:
        if w.told_count == TOLD_IN_A_SECOND:
            return 0
        w.told_count += 1
    w.ask_count += 1
    return 1


@kernel
def hand_to_main(worker, number, endpoint, packet, length, vid):
    """Give the main thread the first ``length`` bytes of a packet and what tells where it goes: 1, or 0: no room."""
    w = worker_at(worker)
    p = packet_at(packet)
    if may_ask(worker, endpoint) == 0:
        return 0
    record = record_reserve(w.asks, ASK_BYTES + length)
    if record == 0:
        return 0
    a = ask_at(record)
    a.port = number
    a.length = length
    a.endpoint = endpoint
    a.remote = p.remote
    a.vid = vid
    a.offloads = load64(packet + PACKET_OFFLOADS)
    copy(record + ASK_TUNNEL, p.key + TUNNEL_AT, TUNNEL_SIZE)
    copy_packet(record + ASK_BYTES, packet, length)
    record_commit(w.asks)
    store64(w.events + EVENTS_MAX * EVENT_BYTES_MAX, 1)
    sys_write(w.asks_fd, w.events + EVENTS_MAX * EVENT_BYTES_MAX, 8)
    return 1


@kernel
def tell_too_big(worker, number, packet, room):
    """Have the main thread say to who sent it that a packet is longer than ``room`` bytes; it is dropped."""
    p = packet_at(packet)
    w = worker_at(worker)
    if w.trace == 0:
        length = p.head_len + p.tail_len
        hand_to_main(worker, number, TOO_BIG, packet, length if length < TOLD_MAX else TOLD_MAX, room)
    return drop(worker, number, MTU_EXCEEDED)


@kernel
def wait_for_endpoint(worker, number, endpoint, packet):
    """Have a packet wait until its far end (0: not known at all) is reached; drop it when enough others do."""
    w = worker_at(worker)
    p = packet_at(packet)
    if w.trace != 0:
        return note(w.trace, AWAITS_ENDPOINT, number, 0)
    if endpoint != 0 and atomic_add(endpoint + WAITING, 1) >= WAITING_MAX:
        atomic_add(endpoint + WAITING, -1)
        return drop(worker, number, TUNNEL_UNRESOLVED)
    if hand_to_main(worker, number, endpoint, packet, p.head_len + p.tail_len, p.vid) == 0:
        if endpoint != 0:
            atomic_add(endpoint + WAITING, -1)
        return drop(worker, number, TUNNEL_UNRESOLVED)
    return 0


@inlined
def pair_of(tunnel, packet):
    """Local and remote IPv4 address that a packet goes from and to, as in ``endpoints4``."""
    pair = load64(packet_at(packet).key + TUN_SRC)
    if pair & 0xFFFFFFFF == 0:
        pair |= tunnel_at(tunnel).local4
    return pair


@kernel
def find_by_flow(worker, number, tunnel, packets, first, count):
    """Endpoints for packets that name their far end themselves."""
    w = worker_at(worker)
    t = tunnel_at(tunnel)
    for i in range(first, count):
        pair = pair_of(tunnel, load64(packets + i * 8))
        map_slot(t.endpoints4, pair)
    for i in range(first, count):
        packet = load64(packets + i * 8)
        pair = pair_of(tunnel, packet)
        names = shr(pair, 32)
        if names != 0:
            endpoint = map_find(t.endpoints4, pair)
        else:
            at = packet_at(packet).key + TUN_IPV6_SRC
            remote = at + ADDRESS
            names = load64(remote) | load64(remote + 8)
            local = at if load64(at) | load64(at + 8) != 0 else tunnel + TUNNEL_LOCAL
            endpoint = find_endpoint6(tunnel, local, remote) if names != 0 else 0
        if endpoint != 0:
            prefetch(endpoint)
            prefetch(endpoint + HEADER)
        elif names != 0:
            wait_for_endpoint(worker, number, 0, packet)
            endpoint = ASKED_FOR
        store64(w.endpoints + i * 8, endpoint)
    return 0


@kernel
def find_by_vlan(worker, tunnel, packets, first, count):
    """Endpoints as learned, or lists of them for what is flooded."""
    w = worker_at(worker)
    t = tunnel_at(tunnel)
    for i in range(first, count):
        p = packet_at(load64(packets + i * 8))
        if p.remote != 0:
            endpoint = load_acquire(t.remotes + p.remote * 8)
            prefetch(endpoint)
            prefetch(endpoint + HEADER)
        else:
            flood = load_acquire(t.floods + p.vid * 8)
            endpoint = flood + FLOODED if flood != 0 else 0
        store64(w.endpoints + i * 8, endpoint)
    return 0


@inlined
def find_endpoints(worker, number, tunnel, packets, first, count):
    """Fill ``endpoints`` of the worker from ``first`` on: ENDPOINT, FLOOD + FLOODED, ASKED_FOR, or 0: no remote."""
    w = worker_at(worker)
    t = tunnel_at(tunnel)
    if t.flags & REMOTE_BY_FLOW != 0:
        return find_by_flow(worker, number, tunnel, packets, first, count)
    if t.flags & BY_VLAN != 0:
        return find_by_vlan(worker, tunnel, packets, first, count)
    endpoint = t.endpoint
    for i in range(first, count):
        store64(w.endpoints + i * 8, endpoint)
    return 0


@kernel
def note_remote(worker, number, packet):
    """Note in a packet that a tunnel BY_VLAN brought from which far end, for the FDB; one that is new is told of."""
    tunnel = port_at(worker_at(worker).ports + number * PORT_BYTES).tunnel
    t = tunnel_at(tunnel)
    p = packet_at(packet)
    remote4 = load32(p.key + TUN_SRC)
    if remote4 != 0:
        found = map_find(t.endpoints4, t.local4 | remote4 << 32)
    else:
        found = find_endpoint6(tunnel, tunnel + TUNNEL_LOCAL, p.key + TUN_IPV6_SRC)
    if found != 0:
        p.remote = endpoint_at(found).number
    elif worker_at(worker).trace == 0:
        hand_to_main(worker, number, 0, packet, 0, 0)
    return 0
