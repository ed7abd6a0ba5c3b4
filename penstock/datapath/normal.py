"""NORMAL forwarding: VLAN classification, MAC learning, lookup, flooding. What Open vSwitch and 802.1Q bridges do.

Two passes over a burst that came in by one port. ``classify`` finds each frame's VLAN and the FDB buckets of its two
addresses, whose cache lines arrive while the rest of the burst is classified; ``forward`` learns, looks up and outputs.
A burst of frames that are alike, as in a stream, is decided once.

Inside a bridge a frame is either untagged or tagged with its VLAN. Modes, as in Open vSwitch: an access port sends
untagged frames of its tag's VLAN; a trunk sends VLAN 0 untagged and the rest tagged; native-tagged and
native-untagged are trunks whose untagged frames belong to the tag's VLAN, sent out tagged or not. A tunnel port may
have the VLAN of each frame in its key: untagged frames, of the VLAN that the tunnel's VNI stands for.
"""

from __future__ import annotations

from penstock.datapath.clones import clone, drop
from penstock.datapath.drops import (
    MULTICAST_SOURCE,
    NO_DESTINATION,
    RESERVED_MULTICAST,
    RUNT,
    SAME_PORT,
    VLAN_NOT_MEMBER,
    VLAN_TAGGED_ON_ACCESS,
)
from penstock.datapath.fdb import (
    MAC_MASK,
    PORT_MASK,
    REMOTE_MASK,
    REMOTE_SHIFT,
    STATIC,
    VALID,
    fdb_bucket,
    fdb_learn,
    fdb_lookup,
)
from penstock.datapath.handover import punt
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    CONFIG_MEMBERS,
    EGRESS_DEVICE,
    ETHERNET_HEADER,
    MEMBER_PORTS,
    PORT_BYTES,
    PORT_UP,
    VLAN_ACCESS,
    VLAN_NATIVE_UNTAGGED,
    VLAN_OF_TUNNEL,
    VLAN_TRUNK,
    bridge_at,
    config_at,
    members_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import append
from penstock.datapath.tags import TAG_BYTES, VID_MASK, set_form
from penstock.datapath.trace import (
    DESTINATION_GROUP,
    DESTINATION_KNOWN,
    DESTINATION_UNKNOWN,
    IN_VLAN,
    OUTPUT_TAGGED,
    OUTPUT_UNTAGGED,
    RECEIVED,
    SOURCE_KNOWN,
    SOURCE_NEW,
    note,
)
from penstock.machine import bswap16, entry, inlined, kernel, load8, load16, load32, load64, shr
from penstock.packet.fields import key_offset
from penstock.packet.parse import is_vlan

DESTINATION, SOURCE = key_offset("eth_dst"), key_offset("eth_src")
TAG_PRESENT = 0x1000
GROUP_BIT = 1  # of the first byte, the lowest in a MAC address loaded as a little-endian word
RESERVED_MASK, RESERVED = 0xF0FFFFFFFFFF, 0x0000C28001  # 01:80:c2:00:00:0x
NO_VID = -1
FLOOD = -1
NO_FWD = 1 << 5  # ofp_port_config: bits of PORT.of_config
NO_FLOODS = NO_FWD | 1 << 4
NO_KEY = -1


@inlined
def is_member(config, vid):
    """Whether a port with this PORT_CONFIG takes part in a VLAN: 1 or 0."""
    return (load8(config + CONFIG_MEMBERS + (vid >> 3)) >> (vid & 7)) & 1


@inlined
def classify_vlan(worker, number, config, packet, tci):
    """The VLAN of a frame with this tag on this port, or NO_VID when it was dropped.

    A priority tag (VLAN 0) is replaced: the frame leaves untagged, or tagged with its VLAN and its priority kept.
    """
    c = config_at(config)
    vid = 0
    if tci & TAG_PRESENT != 0:
        vid = tci & VID_MASK
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
    if tci & TAG_PRESENT != 0 and tci & VID_MASK == 0:
        set_form(packet, vid)
    return vid


@inlined
def form_of(config, vid):
    """How a frame of this VLAN leaves by a port: the VLAN id of its tag, or 0 for untagged."""
    c = config_at(config)
    if c.mode == VLAN_ACCESS or c.mode == VLAN_OF_TUNNEL or (c.mode == VLAN_NATIVE_UNTAGGED and vid == c.tag):
        return 0
    return vid


@inlined
def classify(worker, number, packets, count):
    """First pass over ``count`` packets (addresses at ``packets``): VLAN and buckets; dropped ones get bucket 0."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    config = port.config
    fdb = bridge_at(w.bridges + port.bridge * BRIDGE_BYTES).fdb
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
def output(worker, number, packet, form):
    """Send a packet that goes to this port alone, in the form that the port wants."""
    w = worker_at(worker)
    # Inside the bridge a tagged frame has the tag of its VLAN: only a tag too many or too few needs work.
    if (form != 0) != (packet_at(packet).tagged != 0):
        set_form(packet, form)
    if w.trace != 0:
        note(w.trace, OUTPUT_TAGGED if form != 0 else OUTPUT_UNTAGGED, number, form)
    return append(worker, number, packet)


@kernel
def flood(worker, number, packet, vid):
    """Send a packet to every other port of the bridge that is a member of the VLAN and up.

    At most two forms of it are made, shared by the ports that want them; what does not go to a device always gets its
    own.
    """
    w = worker_at(worker)
    ports = w.ports
    trace = w.trace
    members = bridge_at(w.bridges + port_at(ports + number * PORT_BYTES).bridge * BRIDGE_BYTES).members
    tagged = 0
    untagged = 0
    if packet_at(packet).tagged != 0:
        tagged = packet
    else:
        untagged = packet
    outputs = 0
    for i in range(members_at(members).count):
        other = load32(members + MEMBER_PORTS + i * 4)
        if other == number:
            continue
        port = port_at(ports + other * PORT_BYTES)
        config = port.config
        if port.state != PORT_UP or port.of_config & NO_FLOODS != 0 or is_member(config, vid) == 0:
            continue
        form = form_of(config, vid)
        outputs += 1
        if trace != 0:
            note(trace, OUTPUT_TAGGED if form != 0 else OUTPUT_UNTAGGED, other, form)
        own = port.egress != EGRESS_DEVICE
        sent = tagged if form != 0 else untagged
        if own or sent == 0:
            sent = clone(worker, other, packet)
            if sent == 0:
                continue
            set_form(sent, form)
            if not own:
                if form != 0:
                    tagged = sent
                else:
                    untagged = sent
        append(worker, other, sent)
    if outputs == 0:
        drop(worker, number, NO_DESTINATION)
    return outputs


@inlined
def learn(worker, fdb, number, remote, bucket, key):
    """Learn a source address, or say what would be learned."""
    trace = worker_at(worker).trace
    if number == 0:
        return 0  # what a controller sends has no port
    if trace == 0:
        return fdb_learn(worker, fdb, bucket, key, number | remote << REMOTE_SHIFT)
    known = fdb_lookup(bucket, key)
    if known & VALID != 0 and known & PORT_MASK == number:
        return note(trace, SOURCE_KNOWN, number, 0)
    return note(trace, SOURCE_NEW, number, 0)


@inlined
def choose(worker, number, bridge, vid, found):
    """The port that an FDB entry's value names for a frame that came in by ``number``, or FLOOD."""
    w = worker_at(worker)
    other = found & PORT_MASK
    if found == 0:
        if w.trace != 0:
            note(w.trace, DESTINATION_UNKNOWN, 0, 0)
        return FLOOD
    if w.trace != 0:
        note(w.trace, DESTINATION_KNOWN, other, 0)
    if other == number:
        return other
    port = port_at(w.ports + other * PORT_BYTES)
    # An entry may outlive its port, or its port's place in the VLAN, for an instant.
    if port.bridge != bridge or port.state != PORT_UP or is_member(port.config, vid) == 0:
        return FLOOD
    if port.of_config & NO_FWD != 0:
        return number
    return other


@inlined
def forward(worker, number, packets, count):
    """Second pass: learn, look up, output.

    Neighbours in a burst are often of one flow: what was learned or found for the last packet is not asked again.
    """
    w = worker_at(worker)
    bridge = port_at(w.ports + number * PORT_BYTES).bridge
    fdb = bridge_at(w.bridges + bridge * BRIDGE_BYTES).fdb
    trace = w.trace
    last_source = NO_KEY
    last_destination = NO_KEY
    other = FLOOD
    remote = 0
    form = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        if p.destination == 0:
            continue
        vid = p.vid
        vlan = vid << 48
        key = p.key
        source = load64(key + SOURCE) & MAC_MASK | vlan
        if source != last_source:
            learn(worker, fdb, number, p.remote, p.source, source)
            last_source = source
            last_destination = NO_KEY
        destination = load64(key + DESTINATION) & MAC_MASK | vlan
        if destination != last_destination:
            last_destination = destination
            other = FLOOD
            remote = 0
            if destination & GROUP_BIT != 0:
                if trace != 0:
                    note(trace, DESTINATION_GROUP, 0, 0)
            else:
                found = fdb_lookup(p.destination, destination)
                if trace != 0 and destination == source and found & STATIC == 0:
                    found = number | VALID  # what a live worker has just learned
                other = choose(worker, number, bridge, vid, found)
                if other != FLOOD:
                    remote = shr(found, REMOTE_SHIFT) & REMOTE_MASK
                    form = form_of(port_at(w.ports + other * PORT_BYTES).config, vid)
        p.remote = remote
        if other == FLOOD:
            flood(worker, number, packet, vid)
        elif other == number:
            drop(worker, number, SAME_PORT)
        else:
            output(worker, other, packet, form)
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
    differs = int(config_at(config).mode == VLAN_OF_TUNNEL) | int(tci & (TAG_PRESENT | VID_MASK) == TAG_PRESENT)
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        differs |= (load64(p.key + SOURCE) ^ source) | (load64(p.key + DESTINATION) ^ destination)
        differs |= int(p.head_len < ETHERNET_HEADER + TAG_BYTES)
    return int(differs == 0)


@kernel
def forward_rest(worker, number, packets, count):
    """The ordinary way for packets that are alike and go nowhere in particular, the first of them classified."""
    first = packet_at(load64(packets))
    for i in range(1, count):
        if first.destination == 0:
            classify(worker, number, packets + i * 8, 1)  # dropped and counted as the first was
        p = packet_at(load64(packets + i * 8))
        p.vid = first.vid
        p.source = first.source
        p.destination = first.destination
    return forward(worker, number, packets, count)


@inlined
def forward_alike(worker, number, packets, count):
    """Packets that are alike: what is found for the first is done with all."""
    w = worker_at(worker)
    classify(worker, number, packets, 1)
    first = packet_at(load64(packets))
    bridge = port_at(w.ports + number * PORT_BYTES).bridge
    vid = first.vid
    vlan = vid << 48
    destination = load64(first.key + DESTINATION) & MAC_MASK | vlan
    if first.destination == 0 or destination & GROUP_BIT != 0:
        return forward_rest(worker, number, packets, count)
    fdb = bridge_at(w.bridges + bridge * BRIDGE_BYTES).fdb
    learn(worker, fdb, number, first.remote, first.source, load64(first.key + SOURCE) & MAC_MASK | vlan)
    found = fdb_lookup(first.destination, destination)
    other = choose(worker, number, bridge, vid, found)
    if other == FLOOD or other == number:
        return forward_rest(worker, number, packets, count)
    form = form_of(port_at(w.ports + other * PORT_BYTES).config, vid)
    remote = shr(found, REMOTE_SHIFT) & REMOTE_MASK
    retag = int((form != 0) != (first.tagged != 0))
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        p.vid = vid
        p.remote = remote
        if retag == 1:
            set_form(packet, form)
        append(worker, other, packet)
    return 0


@entry("int64(int64, int64, int64, int64)")
def normal(worker, number, packets, count):
    """Forward ``count`` parsed packets (addresses at ``packets``) that came in by one port; fills output bursts."""
    w = worker_at(worker)
    if count > 1 and w.trace == 0:
        if are_alike(port_at(w.ports + number * PORT_BYTES).config, packets, count) == 1:
            return forward_alike(worker, number, packets, count)
    classify(worker, number, packets, count)
    return forward(worker, number, packets, count)
