"""NORMAL forwarding: VLAN classification, MAC learning, lookup, flooding. What Open vSwitch and 802.1Q bridges do.

Two passes over a burst that came in by one port. ``classify`` finds each frame's VLAN and the FDB buckets of its two
addresses, whose cache lines arrive while the rest of the burst is classified; ``forward`` learns, looks up and outputs.
A burst of frames that are alike, as in a stream, is decided once.
"""

from __future__ import annotations

from penstock.datapath.classify import (
    DESTINATION,
    GROUP_BIT,
    NO_KEY,
    SOURCE,
    are_alike,
    classify,
    form_of,
    is_customer,
    is_member,
)
from penstock.datapath.clones import clone, drop
from penstock.datapath.drops import (
    NO_DESTINATION,
    PROTECTED,
    SAME_PORT,
)
from penstock.datapath.fdb import (
    MAC_MASK,
    PORT_MASK,
    REMOTE_MASK,
    REMOTE_SHIFT,
    STATIC,
    VALID,
    fdb_learn,
    fdb_lookup,
)
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    EGRESS_DEVICE,
    MEMBER_PORTS,
    PORT_BYTES,
    PORT_UP,
    PROTECTED_PORT,
    bridge_at,
    members_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import append
from penstock.datapath.tags import AS_IT_IS, PRIORITY, UNTAGGED, customer_vid, set_form
from penstock.datapath.trace import (
    DESTINATION_GROUP,
    DESTINATION_KNOWN,
    DESTINATION_UNKNOWN,
    OUTPUT_TAGGED,
    OUTPUT_UNTAGGED,
    SOURCE_KNOWN,
    SOURCE_NEW,
    note,
)
from penstock.machine import entry, inlined, kernel, load8, load32, load64, shr

FLOOD, BARRED = -1, -2
NO_FWD = 1 << 5  # ofp_port_config: bits of PORT.of_config
NO_FLOODS = NO_FWD | 1 << 4


@inlined
def output(worker, number, packet, form):
    """Send a packet that goes to this port alone, in the form that the port wants."""
    w = worker_at(worker)
    if needs_work(packet, form):
        set_form(packet, form)
    if w.trace != 0:
        note_output(w.trace, number, packet, form)
    return append(worker, number, packet)


@inlined
def needs_work(packet, form):
    """Whether a packet has to be changed for this form. Inside the bridge a tagged frame has the tag of its VLAN: a tag
    too many or too few is all that there is to do.
    """
    return form != AS_IT_IS and (form > 0) != (packet_at(packet).tagged != 0)


@inlined
def note_output(trace, number, packet, form):
    """Note in what form a packet leaves by a port."""
    if form == UNTAGGED or (form < 0 and packet_at(packet).tagged == 0):
        return note(trace, OUTPUT_UNTAGGED, number, 0)
    return note(trace, OUTPUT_TAGGED, number, max(form, 0))


@kernel
def flood(worker, number, packet, vid):
    """Send a packet to every other port of the bridge that is a member of the VLAN and up.

    At most two forms of it are made, shared by the ports that want them; what does not go to a device always gets its
    own, and so does a port that wants priorities told.
    """
    w = worker_at(worker)
    ports = w.ports
    trace = w.trace
    source = port_at(ports + number * PORT_BYTES)
    members = bridge_at(w.bridges + source.bridge * BRIDGE_BYTES).members
    barred = NO_FLOODS | source.of_config & PROTECTED_PORT
    tagged = 0
    untagged = 0
    own_form = UNTAGGED
    customer = customer_vid(packet)
    if packet_at(packet).tagged != 0:
        tagged = packet
        own_form = vid if vid != 0 else AS_IT_IS
    else:
        untagged = packet
    outputs = 0
    for i in range(members_at(members).count):
        other = load32(members + MEMBER_PORTS + i * 4)
        if other == number:
            continue
        port = port_at(ports + other * PORT_BYTES)
        config = port.config
        if port.state != PORT_UP or port.of_config & barred != 0 or is_member(config, vid) == 0:
            continue
        if is_customer(config, customer) == 0:
            continue
        form = form_of(config, vid)
        if form == AS_IT_IS:
            form = own_form
        outputs += 1
        if trace != 0:
            note_output(trace, other, packet, form)
        own = port.egress != EGRESS_DEVICE or form == PRIORITY
        sent = tagged if form != UNTAGGED else untagged
        if own or sent == 0:
            sent = clone(worker, other, packet)
            if sent == 0:
                continue
            set_form(sent, form)
            if not own:
                if form != UNTAGGED:
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
    """The port that an FDB entry's value names for a frame that came in by ``number``, or FLOOD or BARRED."""
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
    if port.of_config & port_at(w.ports + number * PORT_BYTES).of_config & PROTECTED_PORT != 0:
        return BARRED
    return other


@inlined
def is_flooded(vlans, vid):
    """Whether a VLAN is one of a bridge's ``flood_vlans``: 1 or 0."""
    if vlans == 0:
        return 0
    return (load8(vlans + (vid >> 3)) >> (vid & 7)) & 1


@inlined
def forward(worker, number, packets, count):
    """Second pass: learn, look up, output.

    Neighbours in a burst are often of one flow: what was learned or found for the last packet is not asked again.
    """
    w = worker_at(worker)
    bridge = port_at(w.ports + number * PORT_BYTES).bridge
    b = bridge_at(w.bridges + bridge * BRIDGE_BYTES)
    fdb = b.fdb
    flooded = b.flood_vlans
    trace = w.trace
    last_source = NO_KEY
    last_destination = NO_KEY
    other = FLOOD
    remote = 0
    form = UNTAGGED
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
            if is_flooded(flooded, vid) == 0:
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
            elif is_flooded(flooded, vid) == 1:
                if trace != 0:
                    note(trace, DESTINATION_UNKNOWN, 0, 0)
            else:
                found = fdb_lookup(p.destination, destination)
                if trace != 0 and destination == source and found & STATIC == 0:
                    found = number | VALID  # what a live worker has just learned
                other = choose(worker, number, bridge, vid, found)
                if other >= 0:
                    remote = shr(found, REMOTE_SHIFT) & REMOTE_MASK
                    form = form_of(port_at(w.ports + other * PORT_BYTES).config, vid)
        p.remote = remote
        if other == FLOOD:
            flood(worker, number, packet, vid)
        elif other == BARRED:
            drop(worker, number, PROTECTED)
        elif other == number:
            drop(worker, number, SAME_PORT)
        else:
            output(worker, other, packet, form)
    return 0


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
    b = bridge_at(w.bridges + bridge * BRIDGE_BYTES)
    vid = first.vid
    vlan = vid << 48
    destination = load64(first.key + DESTINATION) & MAC_MASK | vlan
    if first.destination == 0 or destination & GROUP_BIT != 0 or is_flooded(b.flood_vlans, vid) == 1:
        return forward_rest(worker, number, packets, count)
    fdb = b.fdb
    learn(worker, fdb, number, first.remote, first.source, load64(first.key + SOURCE) & MAC_MASK | vlan)
    found = fdb_lookup(first.destination, destination)
    other = choose(worker, number, bridge, vid, found)
    if other < 0 or other == number:
        return forward_rest(worker, number, packets, count)
    form = form_of(port_at(w.ports + other * PORT_BYTES).config, vid)
    remote = shr(found, REMOTE_SHIFT) & REMOTE_MASK
    retag = int(needs_work(load64(packets), form))
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
