"""Reading buffers that a guest made available: addresses checked against its memory, chains followed within bounds.

``peek_split`` and ``peek_packed`` describe up to a burst of chains in the ring's CHAINs without taking them;
``advance`` takes one. A single descriptor, which nearly all are, is described in the CHAIN itself; anything else is
gathered into pieces. Each descriptor is read once, by atomic loads. VIRTIO 1.2 sections 2.7 and 2.8.
"""

from __future__ import annotations

from penstock.datapath.layout import FRAG_BYTES, FRAGS_MAX
from penstock.machine import (
    inlined,
    kernel,
    load_acquire,
    load_acquire16,
    prefetch,
    prefetch_write,
    shr,
    store64,
)
from penstock.ports.vhost_user.layout import (
    CHAIN_BYTES,
    CHAINS,
    GUESTS,
    PIECES,
    PIECES_MAX,
    REGION_BYTES,
    REGION_ROWS,
    Broken,
    chain_at,
    region_at,
    regions_at,
    vhost_at,
    vring_at,
)
from penstock.ports.vhost_user.virtio import (
    AVAIL_ENTRY,
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    INDIRECT_MAX,
    RING_ENTRIES,
    RING_INDEX,
)

INDEX_JUMPED, BAD_HEAD = int(Broken.INDEX_JUMPED), int(Broken.BAD_HEAD)
SHAPE = DESC_NEXT | DESC_WRITE | DESC_INDIRECT
AVAIL_BIT, USED_BIT = 7, 15
CHAIN_MAX = 2 * FRAGS_MAX  # descriptors of one chain, buffers without a byte among them: what a loop of those costs
LINE = 64  # bytes that caches exchange


@kernel
def find_region(ring, guest, length):
    """The host address of ``length`` bytes at a guest address, if they lie in one region, else 0."""
    r = vring_at(ring)
    v = vhost_at(r.vhost)
    regions = v.regions
    for index in range(regions_at(regions).count):
        region = region_at(regions + REGION_ROWS + index * REGION_BYTES)
        if guest >= region.start and guest < region.end and length <= region.end - guest:
            r.start = region.start
            r.end = region.end
            r.offset = region.offset
            return guest + region.offset
    return 0


@inlined
def translate(ring, guest, length):
    """The host address of ``length`` bytes at a guest address, or 0."""
    r = vring_at(ring)
    if guest >= r.start and guest < r.end and length <= r.end - guest:
        return guest + r.offset
    return find_region(ring, guest, length)


@inlined
def fetch_frame(host, header, write):
    """Fetch the lines where header and frame of a buffer begin.

    A header that is to be written is mostly there already, since it says the same of every small frame.
    """
    prefetch(host)
    if write != 0:
        prefetch_write(host + header)
    else:
        prefetch(host + LINE)
    return 0


@inlined
def refresh(ring):
    """Forget the region remembered from an older memory table."""
    r = vring_at(ring)
    generation = vhost_at(r.vhost).generation
    if r.generation != generation:
        r.generation = generation
        r.start = 0
        r.end = 0
    r.pieces_used = 0
    return 0


@kernel
def add_piece(ring, chain, guest, length):
    """Append a buffer to a chain's pieces: 1, or 0 when it is not in the guest's memory or there are too many."""
    r = vring_at(ring)
    c = chain_at(chain)
    if length == 0:
        return 1
    host = translate(ring, guest, length)
    if host == 0 or r.pieces_used == PIECES_MAX or c.piece_count == FRAGS_MAX:
        return 0
    piece = ring + PIECES + r.pieces_used * FRAG_BYTES
    store64(piece, host)
    store64(piece + 8, length)
    store64(ring + GUESTS + r.pieces_used * 8, guest)
    r.pieces_used += 1
    c.piece_count += 1
    c.length += length
    return 1


@kernel
def gather_table(ring, chain, table, count, position, write, packed):
    """Gather descriptors of a table at a host address, at most ``count``: 1, or 0 when the chain cannot be used.

    A split table is followed by its links from ``position``; a packed one (which is an indirect table) from end to end.
    """
    step = 0
    while True:
        at = table + position * DESC_BYTES
        guest = load_acquire(at)
        word = load_acquire(at + 8)
        flags = shr(word, 32) & 0xFFFF
        if packed == 1:
            flags = shr(word, 48)
        if flags & DESC_INDIRECT != 0 or flags & DESC_WRITE != write:
            return 0
        if add_piece(ring, chain, guest, word & 0xFFFFFFFF) == 0:
            return 0
        step += 1
        if packed == 1:
            position += 1
            if position == count:
                return 1
        elif flags & DESC_NEXT == 0:
            return 1
        else:
            position = shr(word, 48)
            if position >= count:
                return 0
        if step >= count or step == CHAIN_MAX:
            return 0


@kernel
def gather_indirect(ring, chain, guest, length, write, packed):
    """Gather the descriptors of an indirect table: 1, or 0 when the chain cannot be used."""
    count = length // DESC_BYTES
    if count == 0 or count > INDIRECT_MAX or length % DESC_BYTES != 0 or guest & 7 != 0:
        return 0
    table = translate(ring, guest, length)
    if table == 0 or table & 7 != 0:
        return 0
    return gather_table(ring, chain, table, count, 0, write, packed)


@inlined
def begin_chain(ring, chain):
    """Make the CHAIN an empty one of pieces."""
    c = chain_at(chain)
    c.host = 0
    c.length = 0
    c.pieces = vring_at(ring).pieces_used
    c.piece_count = 0
    return 0


@kernel
def give_up(ring, chain):
    """Mark a chain as one that cannot be used, its pieces free again."""
    r = vring_at(ring)
    c = chain_at(chain)
    r.pieces_used = c.pieces
    c.piece_count = 0
    c.length = 0
    r.bad_chains += 1
    return 0


@kernel
def gather_split(ring, chain, guest, word, head, write):
    """Gather a chain whose first descriptor, already read, is no single buffer of the right direction."""
    r = vring_at(ring)
    begin_chain(ring, chain)
    flags = shr(word, 32) & 0xFFFF
    good = 0
    if flags & DESC_INDIRECT != 0:
        if flags & DESC_NEXT == 0:
            good = gather_indirect(ring, chain, guest, word & 0xFFFFFFFF, write, 0)
    elif flags & DESC_WRITE == write and add_piece(ring, chain, guest, word & 0xFFFFFFFF) == 1:
        good = 1
        if flags & DESC_NEXT != 0:
            following = shr(word, 48)
            good = 0
            if following < r.size:
                good = gather_table(ring, chain, r.descriptors, r.size, following, write, 0)
    if good == 0:
        give_up(ring, chain)
    return 0


@kernel
def peek_split(ring, limit, write):
    """Describe up to ``limit`` available chains; how many. A ring that contradicts itself becomes ``broken``."""
    r = vring_at(ring)
    size = r.size
    mask = size - 1
    last = r.last_avail
    # The guest's core writes that line: while enough was seen to be available it is left alone.
    if (r.seen - last) & 0xFFFF < limit:
        r.seen = load_acquire16(r.driver + RING_INDEX)
    waiting = (r.seen - last) & 0xFFFF
    if waiting == 0:
        return 0
    if waiting > size:
        r.broken = INDEX_JUMPED
        return 0
    count = waiting if waiting < limit else limit
    entries = r.driver + RING_ENTRIES
    descriptors = r.descriptors
    header = r.header
    for i in range(count):
        head = load_acquire16(entries + ((last + i) & mask) * AVAIL_ENTRY)
        if head >= size:
            r.broken = BAD_HEAD
            count = i
            break
        chain_at(ring + CHAINS + i * CHAIN_BYTES).id = head
        prefetch(descriptors + head * DESC_BYTES)
    for i in range(count):
        chain = ring + CHAINS + i * CHAIN_BYTES
        c = chain_at(chain)
        descriptor = descriptors + c.id * DESC_BYTES
        guest = load_acquire(descriptor)
        word = load_acquire(descriptor + 8)
        c.count = 1
        length = word & 0xFFFFFFFF
        if shr(word, 32) & SHAPE == write:
            host = translate(ring, guest, length)
            if host != 0:
                c.guest = guest
                c.host = host
                c.room = r.end - guest
                c.length = length
                c.piece_count = 1
                fetch_frame(host, header, write)
                continue
        gather_split(ring, chain, guest, word, c.id, write)
    return count


@inlined
def is_available(flags, wrap):
    """Whether a packed descriptor with these flags is the guest's offer under our wrap counter."""
    return int((flags >> AVAIL_BIT) & 1 == wrap and (flags >> USED_BIT) & 1 != wrap)


@kernel
def gather_packed(ring, chain, position, wrap, write, room):
    """Gather a chain of a packed ring that is no single buffer of the right direction: the ring places it takes.

    The id of a chain is in its last descriptor. ``room`` are the places that the burst's chains before it left: a guest
    that goes on writing could offer some of those again meanwhile.
    """
    r = vring_at(ring)
    c = chain_at(chain)
    begin_chain(ring, chain)
    size = r.size
    taken = 0
    good = 1
    ended = 0
    while taken < room:
        at = r.descriptors + position * DESC_BYTES
        word = load_acquire(at + 8)
        flags = shr(word, 48)
        if taken > 0 and is_available(flags, wrap) == 0:
            # The guest offered the head before the rest.
            good = 0
            break
        guest = load_acquire(at)
        c.id = shr(word, 32) & 0xFFFF
        taken += 1
        position += 1
        if position == size:
            position = 0
            wrap ^= 1
        if good == 1:
            length = word & 0xFFFFFFFF
            if flags & DESC_INDIRECT != 0:
                good = 0
                if taken == 1 and flags & DESC_NEXT == 0:
                    good = gather_indirect(ring, chain, guest, length, write, 1)
            elif flags & DESC_WRITE != write:
                good = 0
            else:
                good = add_piece(ring, chain, guest, length)
        if flags & DESC_NEXT == 0:
            ended = 1
            break
    c.count = taken
    if good == 0 or ended == 0:
        give_up(ring, chain)
    return taken


@kernel
def peek_packed(ring, limit, write):
    """Describe up to ``limit`` available chains; how many."""
    r = vring_at(ring)
    size = r.size
    position = r.last_avail
    wrap = r.avail_wrap
    descriptors = r.descriptors
    header = r.header
    count = 0
    places = 0
    while count < limit and places < size:
        descriptor = descriptors + position * DESC_BYTES
        word = load_acquire(descriptor + 8)
        flags = shr(word, 48)
        if is_available(flags, wrap) == 0:
            break
        chain = ring + CHAINS + count * CHAIN_BYTES
        c = chain_at(chain)
        taken = 1
        host = 0
        if flags & SHAPE == write:
            guest = load_acquire(descriptor)
            length = word & 0xFFFFFFFF
            host = translate(ring, guest, length)
            if host != 0:
                c.guest = guest
                c.host = host
                c.room = r.end - guest
                c.length = length
                c.id = shr(word, 32) & 0xFFFF
                c.count = 1
                c.piece_count = 1
                fetch_frame(host, header, write)
        if host == 0:
            taken = gather_packed(ring, chain, position, wrap, write, size - places)
        position += taken
        places += taken
        if position >= size:
            position -= size
            wrap ^= 1
        count += 1
    return count


@inlined
def peek(ring, limit, write):
    """Describe up to ``limit`` available chains of buffers to be read (``write`` 0) or written (DESC_WRITE)."""
    refresh(ring)
    if vring_at(ring).packed != 0:
        return peek_packed(ring, limit, write)
    return peek_split(ring, limit, write)


@inlined
def advance(ring, places, chains):
    """Take ``chains`` chains, of ``places`` ring places together, out of what is available."""
    r = vring_at(ring)
    if r.packed == 0:
        r.last_avail = (r.last_avail + chains) & 0xFFFF
        return 0
    position = r.last_avail + places
    if position >= r.size:
        position -= r.size
        r.avail_wrap ^= 1
    r.last_avail = position
    return 0
