"""Options of Geneve (RFC 8926, section 3.5) that a bridge's TLV map binds to the fields ``tun_metadata``.

The map is a TLV_MAP in the region of flow tables, replaced as a whole by the store of one pointer. A field holds an
option's value right-aligned; one that is 0 stands for an option that is not there, as in Open vSwitch, which reads an
option that did not arrive as 0.
"""

from __future__ import annotations

from penstock.datapath.layout import BRIDGE_BYTES, bridge_at, packet_at, port_at, worker_at
from penstock.datapath.pipeline.layout import PIPELINE_TLVS, TLV_BYTES, TLVS, tlv_at, tlv_map_at
from penstock.machine import inlined, kernel, load8, load32, load64, load_acquire, shr, store8, store32, store64

TLV_HEADER = 4
KIND_MASK = 0xFFFFFF  # class and type, of an option's first word in memory order
CRITICAL = 0x80 << 16  # of the type
OPTIONS_CRITICAL = 0x40  # in the second byte of Geneve: an option of these is critical
LENGTHS = 0x3F  # in the first byte of Geneve: four bytes each


@inlined
def map_of(worker, port):
    """The TLV_MAP of a port's bridge; 0: none, as in a bridge without flow tables."""
    w = worker_at(worker)
    pipeline = bridge_at(w.bridges + port_at(port).bridge * BRIDGE_BYTES).pipeline
    return load_acquire(pipeline + PIPELINE_TLVS) if pipeline != 0 else 0


@inlined
def value_of(tlv, key):
    """What the field of a bound option holds, in memory order."""
    t = tlv_at(tlv)
    return load64(key + t.offset) if t.octets == 8 else load32(key + t.offset + 4)


@kernel
def read_options(tlvs, at, octets, key):
    """Put the values of bound options into the key: 1, or 0 when an option is cut off, or critical and not bound."""
    done = 0
    while done < octets:
        if octets - done < TLV_HEADER:
            return 0
        head = load32(at + done)
        size = (shr(head, 24) & 0x1F) * 4
        done += TLV_HEADER
        if size > octets - done:
            return 0
        known = 0
        if tlvs != 0:
            for i in range(tlv_map_at(tlvs).count):
                t = tlv_at(tlvs + TLVS + i * TLV_BYTES)
                if t.kind == head & KIND_MASK:
                    known = 1
                    if t.octets == size and size == 8:
                        store64(key + t.offset, load64(at + done))
                    elif t.octets == size:
                        store32(key + t.offset + 4, load32(at + done))
        if known == 0 and head & CRITICAL != 0:
            return 0
        done += size
    return 1


@kernel
def options_length(tlvs, key):
    """Bytes of the options that a packet with this key is sent with."""
    total = 0
    for i in range(tlv_map_at(tlvs).count):
        tlv = tlvs + TLVS + i * TLV_BYTES
        if value_of(tlv, key) != 0:
            total += TLV_HEADER + tlv_at(tlv).octets
    return total


@kernel
def push_options(tlvs, packet, key):
    """Put the options in front of a packet, which has room: what the first two bytes of Geneve have for them."""
    p = packet_at(packet)
    words = 0
    critical = 0
    for i in range(tlv_map_at(tlvs).count - 1, -1, -1):
        tlv = tlvs + TLVS + i * TLV_BYTES
        t = tlv_at(tlv)
        value = value_of(tlv, key)
        if value == 0:
            continue
        octets = TLV_HEADER + t.octets
        p.head -= octets
        p.head_len += octets
        p.headroom -= octets
        store32(p.head, t.kind | shr(t.octets, 2) << 24)
        if t.octets == 8:
            store64(p.head + TLV_HEADER, value)
        else:
            store32(p.head + TLV_HEADER, value)
        words += shr(octets, 2)
        if t.kind & CRITICAL != 0:
            critical = OPTIONS_CRITICAL
    return words | critical << 8


@inlined
def tell_options(geneve, told):
    """Say in a Geneve header what ``push_options`` said."""
    store8(geneve, load8(geneve) | told & LENGTHS)
    store8(geneve + 1, load8(geneve + 1) | shr(told, 8))
    return 0
