"""Into a tunnel: a port's output burst is encapsulated and forwarded in the underlay's bridge, in the same turn.

A large segment is cut before it is encapsulated, and a flooded packet is copied for each far end. Both take buffers
that are held until they were sent; when there are no more, the rest of the burst stays where it is, the port goes on
the list of those that are ``blocked``, and ``flush`` comes back to it when all else was sent. So no traffic is too much
for one turn.
"""

from __future__ import annotations

from penstock.datapath.bridging import forward
from penstock.datapath.clones import copy_headers, drop, drop_all
from penstock.datapath.drops import (
    CANNOT_FINISH,
    HEADERS_TOO_LONG,
    INGRESS_DOWN,
    NO_BUFFERS,
    PATCH_LOOP,
    PORT_DOWN,
    TUNNEL_NO_REMOTE,
)
from penstock.datapath.fragments import join_tail
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    BURST,
    COUNTERS_BYTES,
    CUT_MAX,
    DEPTH_MAX,
    FLAG_CSUM_PARTIAL,
    FLAG_CSUM_VALID,
    HEADROOM,
    OUTPUT_BYTES,
    OUTPUT_PACKETS,
    PORT_BYTES,
    PORT_UP,
    TRANSMITTED,
    counters_at,
    output_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import block
from penstock.datapath.parsing import complete, reads_links
from penstock.datapath.segments import header_length, make_segment, plan_segments
from penstock.datapath.trace import ENCAPSULATED, REPLICATED, note
from penstock.datapath.tunnel.find import ASKED_FOR, FLOODED, find_endpoints, tell_too_big, wait_for_endpoint
from penstock.datapath.tunnel.layout import (
    BY_VLAN,
    FLOOD_ENDPOINTS,
    GENEVE,
    KEY_BY_FLOW,
    NO_VNI,
    READY,
    endpoint_at,
    flood_at,
    tunnel_at,
)
from penstock.datapath.tunnel.push import TUN_ID, flow_hash, push_header, sum_from
from penstock.datapath.tunnel.tlv import map_of, options_length, push_options
from penstock.machine import bswap64, call4, inlined, kernel, load32, load64, store16, store64
from penstock.memory import pool_get, pool_put
from penstock.packet.checksum import finish_checksum
from penstock.packet.protocols import SCTP_CHECKSUM
from penstock.packet.segment import GSO_UFO

# ``drop`` returns 0, or what ``note`` does: DONE.
DONE, BLOCKED = 0, 1
NO_KEY = -1


@kernel
def enter_underlay(worker):
    """Have the batch of encapsulated packets enter the underlay's bridge as if the host had sent them."""
    w = worker_at(worker)
    count = w.batch_count
    number = w.batch_port
    w.batch_count = 0
    port = port_at(w.ports + number * PORT_BYTES)
    if port.state != PORT_UP:
        return drop_all(worker, number, INGRESS_DOWN, count)
    if reads_links(w.bridges + port.bridge * BRIDGE_BYTES) == 1:
        w.links = 1  # only the addresses are looked at, which push_header put in the key
    else:
        call4(w.parse, worker, number, w.patched, count)
    return forward(worker, number, w.patched, count)


@inlined
def add_to_batch(worker, underlay, packet):
    """Add an encapsulated packet to the batch."""
    w = worker_at(worker)
    if w.batch_count == BURST or (w.batch_port != underlay and w.batch_count != 0):
        enter_underlay(worker)
    w.batch_port = underlay
    store64(w.patched + w.batch_count * 8, packet)
    w.batch_count += 1
    return 0


@inlined
def count_sent(worker, number, octets):
    """Count one packet that went into a tunnel."""
    w = worker_at(worker)
    c = counters_at(port_at(w.ports + number * PORT_BYTES).counters + w.index * COUNTERS_BYTES)
    c.tx_packets += 1
    c.tx_bytes += octets
    return 0


@kernel
def take_cut(worker, number):
    """A buffer that is given back when all was sent; 0 when there is none (counted). Their number is the caller's."""
    w = worker_at(worker)
    buffer = pool_get(w.cache)
    if buffer == 0:
        drop(worker, number, NO_BUFFERS)
        return 0
    store64(w.cut + w.cut_count * 8, buffer)
    w.cut_count += 1
    return buffer


@kernel
def send_segments(worker, number, tunnel, endpoint, packet, tun_id, tlvs):
    """Cut a large segment, and encapsulate the pieces."""
    w = worker_at(worker)
    p = packet_at(packet)
    e = endpoint_at(endpoint)
    longest = p.l4 if p.gso_type == GSO_UFO else header_length(packet)
    added = options_length(tlvs, p.key) if tlvs != 0 else 0
    if e.length + added > HEADROOM:
        return drop(worker, number, HEADERS_TOO_LONG)
    room = e.room - added
    if longest + p.gso_size > room:
        return tell_too_big(worker, number, packet, room)
    most = (p.head_len + p.tail_len) // p.gso_size + 1
    if most > CUT_MAX:
        return drop(worker, number, CANNOT_FINISH)
    if most > CUT_MAX - w.cut_count or (p.frags != 0 and w.cut_joined_count != 0):
        return BLOCKED
    if p.frags != 0:
        join_tail(packet, w.cut_joined)
        w.cut_joined_count = 1
    total = plan_segments(worker, packet)
    if total == 0:
        return drop(worker, number, CANNOT_FINISH)
    flow = flow_hash(p.key)
    p.depth += 1
    for i in range(total):
        buffer = take_cut(worker, number)
        if buffer == 0:
            break
        size = make_segment(worker, packet, i, buffer)
        count_sent(worker, number, size)
        told = push_options(tlvs, buffer, p.key) if tlvs != 0 else 0
        push_header(tunnel, endpoint, buffer, p.key, tun_id, flow, told)
        add_to_batch(worker, e.underlay, buffer)
    return DONE


@kernel
def finish(packet):
    """Complete a partial checksum: 1, or 0 when it cannot be done."""
    p = packet_at(packet)
    place = p.csum_start + p.csum_offset
    if p.csum_offset == SCTP_CHECKSUM:
        if p.frags != 0 or finish_checksum(p.head, p.head_len, p.tail, p.tail_len, p.csum_start, SCTP_CHECKSUM) == 0:
            return 0
    elif place + 2 > p.head_len:
        return 0
    else:
        checksum = ~sum_from(packet, p.csum_start) & 0xFFFF
        store16(p.head + place, 0xFFFF if checksum == 0 else checksum)
    p.flags = p.flags & ~FLAG_CSUM_PARTIAL | FLAG_CSUM_VALID
    return 1


@inlined
def send_one(worker, number, tunnel, endpoint, packet, tun_id, tlvs):
    """Encapsulate a packet for one far end: DONE, also when it was dropped, or BLOCKED."""
    w = worker_at(worker)
    e = endpoint_at(endpoint)
    p = packet_at(packet)
    if e.state != READY:
        return wait_for_endpoint(worker, number, endpoint, packet)
    if e.used != w.now:
        e.used = w.now
    added = options_length(tlvs, p.key) if tlvs != 0 else 0
    if p.headroom < e.length + added:
        return drop(worker, number, HEADERS_TOO_LONG)
    if p.depth == DEPTH_MAX:
        return drop(worker, number, PATCH_LOOP)
    if p.gso_type != 0:
        return send_segments(worker, number, tunnel, endpoint, packet, tun_id, tlvs)
    size = p.head_len + p.tail_len
    if size > e.room - added:
        return tell_too_big(worker, number, packet, e.room - added)
    if p.flags & FLAG_CSUM_PARTIAL != 0 and finish(packet) == 0:
        return drop(worker, number, CANNOT_FINISH)
    if w.trace != 0:
        note(w.trace, ENCAPSULATED, number, e.length + added)
    else:
        count_sent(worker, number, size)
    p.depth += 1
    told = push_options(tlvs, packet, p.key) if added != 0 else 0
    push_header(tunnel, endpoint, packet, p.key, tun_id, flow_hash(p.key), told)
    return add_to_batch(worker, e.underlay, packet)


@kernel
def replicate(worker, number, tunnel, flood, packet, tun_id, tlvs):
    """Encapsulate a packet for every far end of its VNI, but for those that had it already before it was BLOCKED."""
    w = worker_at(worker)
    o = output_at(w.outputs + number * OUTPUT_BYTES)
    while o.copies < flood_at(flood).count:
        if w.cut_count == CUT_MAX:
            return BLOCKED
        buffer = take_cut(worker, number)
        if buffer == 0:
            break
        copy_headers(buffer, packet)
        if w.trace != 0:
            note(w.trace, REPLICATED, number, o.copies)
        endpoint = load64(flood + FLOOD_ENDPOINTS + o.copies * 8)
        if send_one(worker, number, tunnel, endpoint, buffer, tun_id, tlvs) == BLOCKED:
            w.cut_count -= 1
            pool_put(w.cache, buffer)
            return BLOCKED
        o.copies += 1
    o.copies = 0
    return DONE


@inlined
def sent_key(tunnel, packet):
    """The ``tun_id`` that a packet is sent with, as in a flow key; NO_KEY when its VLAN has none."""
    t = tunnel_at(tunnel)
    p = packet_at(packet)
    if t.flags & KEY_BY_FLOW == 0:
        return t.key
    if t.flags & BY_VLAN == 0:
        return load64(p.key + TUN_ID)
    vni = load32(t.vnis + p.vid * 4)
    return NO_KEY if vni == NO_VNI & 0xFFFFFFFF else bswap64(vni)


@kernel
def send_into_tunnel(worker, number):
    """Empty the output burst of a tunnel port, or as much of it as there are buffers for."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    port = port_at(w.ports + number * PORT_BYTES)
    tunnel = port.tunnel
    packets = output + OUTPUT_PACKETS
    tlvs = map_of(worker, w.ports + number * PORT_BYTES) if tunnel_at(tunnel).kind == GENEVE else 0
    w.crossed = 1
    # A loop of tunnels may append to this very burst.
    while o.first < o.count:
        first = o.first
        count = o.count
        if port.state != PORT_UP:
            drop_all(worker, number, PORT_DOWN, count - first)
            o.first = count
            o.copies = 0
            continue
        if port.capture != 0 and w.trace == 0 and o.captured < count:
            capture(worker, number, TRANSMITTED, packets + o.captured * 8, count - o.captured, port.capture)
            o.captured = count
        find_endpoints(worker, number, tunnel, packets, first, count)
        for i in range(first, count):
            packet = load64(packets + i * 8)
            if packet_at(packet).whole == 0:
                complete(packet)  # the bridge had no tunnel when it was parsed
            endpoint = load64(w.endpoints + i * 8)
            tun_id = sent_key(tunnel, packet)
            result = DONE
            if endpoint == 0 or tun_id == NO_KEY:
                drop(worker, number, TUNNEL_NO_REMOTE)
            elif endpoint & FLOODED != 0:
                result = replicate(worker, number, tunnel, endpoint - FLOODED, packet, tun_id, tlvs)
            elif endpoint != ASKED_FOR:
                result = send_one(worker, number, tunnel, endpoint, packet, tun_id, tlvs)
            if result == BLOCKED:
                o.first = i
                enter_underlay(worker)
                return block(worker, number)
        o.first = count
        if w.batch_count != 0:
            enter_underlay(worker)
    o.count = 0
    o.first = 0
    o.captured = 0
    return 0
