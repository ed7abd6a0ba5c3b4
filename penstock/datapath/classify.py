"""The VLAN of each frame, and what else NORMAL must know before it forwards.

Inside a bridge a frame is either untagged or tagged with its VLAN; in VLAN 0 a tag is there for a priority alone.
Modes, as in Open vSwitch: an access port sends untagged frames of its tag's VLAN; a trunk sends tagged frames, of VLAN
0 untagged ones or what has a priority; native-tagged and native-untagged are trunks whose untagged frames belong to the
tag's VLAN, sent out tagged or not. A dot1q-tunnel port is a customer's (IEEE 802.1Q, 15): what comes is of its tag's
VLAN, whatever tags it has, and gets one more. A tunnel port may have the VLAN of each frame in its key: untagged
frames, of the VLAN that the tunnel's VNI stands for.
"""

from __future__ import annotations

from penstock.datapath.clones import drop
from penstock.datapath.drops import (
    MULTICAST_SOURCE,
    RESERVED_MULTICAST,
    RUNT,
    VLAN_NOT_MEMBER,
    VLAN_TAGGED_ON_ACCESS,
)
from penstock.datapath.fdb import (
    MAC_MASK,
    fdb_bucket,
)
from penstock.datapath.handover import punt
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    CONFIG_CUSTOMERS,
    CONFIG_MEMBERS,
    ETHERNET_HEADER,
    PORT_BYTES,
    VLAN_ACCESS,
    VLAN_DOT1Q_TUNNEL,
    VLAN_NATIVE_UNTAGGED,
    VLAN_OF_TUNNEL,
    VLAN_TRUNK,
    bridge_at,
    config_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.tags import AS_IT_IS, TAG_BYTES, VID_MASK, push_tag, set_form
from penstock.datapath.trace import (
    IN_VLAN,
    RECEIVED,
    note,
)
from penstock.machine import bswap16, inlined, load8, load16, load64, shr
from penstock.packet.fields import key_offset
from penstock.packet.parse import is_vlan

DESTINATION, SOURCE = key_offset("eth_dst"), key_offset("eth_src")
TAG_PRESENT = 0x1000
PRIORITY_MASK = 0xE000
GROUP_BIT = 1  # of the first byte, the lowest in a MAC address loaded as a little-endian word
RESERVED_MASK, RESERVED = 0xF0FFFFFFFFFF, 0x0000C28001  # 01:80:c2:00:00:0x
NO_VID = -1
NO_KEY = -1


@inlined
def is_member(config, vid):
    """Whether a port with this PORT_CONFIG takes part in a VLAN: 1 or 0."""
    return (load8(config + CONFIG_MEMBERS + (vid >> 3)) >> (vid & 7)) & 1


@inlined
def is_customer(config, vid):
    """Whether a customer's VLAN is one that a dot1q-tunnel port carries: 1 or 0."""
    if config_at(config).selective == 0:
        return 1
    return (load8(config + CONFIG_CUSTOMERS + (vid >> 3)) >> (vid & 7)) & 1


@inlined
def classify_vlan(worker, number, config, packet, tci):
    """The VLAN of a frame with this tag on this port, or NO_VID when it was dropped.

    A tag of VLAN 0 gets that VLAN and keeps its priority; in VLAN 0 it goes when it tells no priority.
    """
    c = config_at(config)
    vid = 0
    if tci & TAG_PRESENT != 0:
        vid = tci & VID_MASK
    if c.mode == VLAN_DOT1Q_TUNNEL:
        if is_customer(config, vid) == 0:
            drop(worker, number, VLAN_NOT_MEMBER)
            return NO_VID
        push_tag(packet, c.service_type, c.tag)
        return c.tag
    if c.mode == VLAN_ACCESS or c.mode == VLAN_OF_TUNNEL:
        if vid != 0:
            drop(worker, number, VLAN_TAGGED_ON_ACCESS)
            return NO_VID
        vid = c.tag if c.mode == VLAN_ACCESS else packet_at(packet).vid
    elif c.mode != VLAN_TRUNK and vid == 0:
        vid = c.tag
    if is_member(config, vid) == 0:
        drop(worker, number, VLAN_NOT_MEMBER)
        return NO_VID
    if tci & TAG_PRESENT != 0 and tci & VID_MASK == 0 and (vid != 0 or tci & PRIORITY_MASK == 0):
        set_form(packet, vid)
    return vid


@inlined
def form_of(config, vid):
    """How a frame of this VLAN leaves by a port: the VLAN id of its tag, or another form."""
    c = config_at(config)
    if c.mode == VLAN_ACCESS or c.mode >= VLAN_DOT1Q_TUNNEL or (c.mode == VLAN_NATIVE_UNTAGGED and vid == c.tag):
        return c.bare
    return vid if vid != 0 else AS_IT_IS


@inlined
def classify(worker, number, packets, count):
    """First pass over ``count`` packets (addresses at ``packets``): VLAN and buckets; dropped ones get bucket 0."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    config = port.config
    bridge = bridge_at(w.bridges + port.bridge * BRIDGE_BYTES)
    fdb = bridge.fdb
    trace = w.trace
    last_source = NO_KEY
    last_destination = NO_KEY
    source_bucket = 0
    destination_bucket = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        p.destination = 0
        if p.head_len < ETHERNET_HEADER + TAG_BYTES:
            # A tag that is cut off would put the frame into the VLAN of untagged ones.
            if p.head_len < ETHERNET_HEADER or is_vlan(load16(p.head + ETHERNET_HEADER - 2)) == 1:
                drop(worker, number, RUNT)
                continue
        source_word = load64(p.key + SOURCE)
        source = source_word & MAC_MASK
        if source & GROUP_BIT != 0:
            drop(worker, number, MULTICAST_SOURCE)
            continue
        destination = load64(p.key + DESTINATION) & MAC_MASK
        if destination & RESERVED_MASK == RESERVED:
            punt(worker, number, packet)
            if bridge.forward_bpdu == 0:
                drop(worker, number, RESERVED_MULTICAST)
                continue
        vid = classify_vlan(worker, number, config, packet, bswap16(shr(source_word, 48)))
        if vid == NO_VID:
            continue
        if trace != 0:
            note(trace, RECEIVED, number, 0)
            note(trace, IN_VLAN, vid, 0)
        p.vid = vid
        source |= vid << 48
        if source != last_source:
            source_bucket = fdb_bucket(fdb, source)
            last_source = source
        destination |= vid << 48
        if destination != last_destination:
            destination_bucket = fdb_bucket(fdb, destination)
            last_destination = destination
        p.source = source_bucket
        p.destination = destination_bucket
    return 0


@inlined
def are_alike(config, packets, count):
    """Whether packets have the same addresses and tag, and nothing about them needs a look at each."""
    first = packet_at(load64(packets))
    source = load64(first.key + SOURCE)
    destination = load64(first.key + DESTINATION)
    tci = bswap16(shr(source, 48))
    if load64(packet_at(load64(packets + 8)).key + SOURCE) != source:
        return 0  # most mixed bursts are known by their second packet
    differs = int(config_at(config).mode >= VLAN_DOT1Q_TUNNEL) | int(tci & (TAG_PRESENT | VID_MASK) == TAG_PRESENT)
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        differs |= (load64(p.key + SOURCE) ^ source) | (load64(p.key + DESTINATION) ^ destination)
        differs |= int(p.head_len < ETHERNET_HEADER + TAG_BYTES)
    return int(differs == 0)
