"""Flow keys of a burst: whole, or only as much as a bridge looks at that forwards by addresses alone.

A bridge without tunnels whose flow tables say nothing but NORMAL reads layer 2 of a key. Its packets are parsed so far,
unless they are large ones that may have to be cut by their headers; ``complete`` makes the key whole for whoever needs
it nevertheless.
"""

from __future__ import annotations

from penstock.datapath.layout import BRIDGE_BYTES, PORT_BYTES, bridge_at, packet_at, port_at, worker_at
from penstock.datapath.pipeline.layout import FRAG_DROP, pipeline_at
from penstock.machine import entry, inlined, kernel, load64, shr, store64
from penstock.packet.fields import key_offset
from penstock.packet.parse import PARSED_TAG, parse, parse_link

IN_PORT = key_offset("in_port")
FROM_CONTROLLER = int.from_bytes(b"\xff\xff\xff\xfd" * 2, "little", signed=True)  # ports of a frame from no port


@inlined
def parse_whole(packet, key_word):
    """Fill the whole key of a packet that came in by the ports in ``key_word``, and its layers' offsets."""
    p = packet_at(packet)
    found = parse(p.head, p.head_len, p.key)
    store64(p.key + IN_PORT, key_word)
    p.l3 = found & 0xFFFF
    p.l4 = shr(found, 16) & 0xFFFF
    p.tagged = 1 if found & PARSED_TAG != 0 else 0
    p.whole = 1
    return 0


@kernel
def complete(packet):
    """Make the key of a packet whole."""
    p = packet_at(packet)
    if p.whole == 0:
        parse_whole(packet, load64(p.key + IN_PORT))
    return 0


@kernel
def complete_all(worker, number, packets, count):
    """The same for the burst that was parsed last and came in by a port: its bridge has got flows since."""
    w = worker_at(worker)
    w.links = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        if packet_at(packet).whole == 0:
            parse_whole(packet, port_at(w.ports + number * PORT_BYTES).key_word)
    return 0


@inlined
def reads_links(bridge):
    """Whether all that happens in a bridge is NORMAL, which reads layer 2 alone."""
    pipeline = bridge_at(bridge).pipeline
    if pipeline == 0:
        return 1
    return int(pipeline_at(pipeline).normal != 0 and pipeline_at(pipeline).frags != FRAG_DROP)


@kernel
def parse_links(number, key_word, packets, count):
    """Fill layer 2 of each packet's key; the burst's bytes."""
    octets = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        p.in_port = number
        octets += p.head_len + p.tail_len
        if p.gso_type != 0:
            parse_whole(packet, key_word)
            continue
        found = parse_link(p.head, p.head_len, p.key)
        store64(p.key + IN_PORT, key_word)
        p.l3 = found & 0xFFFF
        p.l4 = 0
        p.tagged = 1 if found & PARSED_TAG != 0 else 0
        p.whole = 0
    return octets


@entry("int64(int64, int64, int64, int64)")
def parse_burst(worker, number, packets, count):
    """Fill the flow key and layer offsets of each packet, as far as its bridge looks at them; the burst's bytes."""
    w = worker_at(worker)
    octets = 0
    key_word = FROM_CONTROLLER
    w.links = 0
    if number >= 0:
        port = port_at(w.ports + number * PORT_BYTES)
        key_word = port.key_word
        bridge = w.bridges + port.bridge * BRIDGE_BYTES
        if reads_links(bridge) == 1 and bridge_at(bridge).tunnels == 0 and w.trace == 0:
            w.links = 1
            return parse_links(number, key_word, packets, count)
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        parse_whole(packet, key_word)
        p.in_port = number
        octets += p.head_len + p.tail_len
    return octets
