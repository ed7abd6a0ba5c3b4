"""Header edits in place, outer layers: VLAN tags, MAC addresses, MPLS entries.

Pushing uses headroom in front of the frame: the Ethernet header moves towards lower addresses and the payload stays;
so push and pop return the new address of the frame's first byte, and the caller changes its lengths and offsets by 4.
Values are raw words. Nothing here checks bounds: the caller parsed the frame and knows that the header is there.
Worker thread only; the head must be writable and the worker's own.
"""

from __future__ import annotations

from penstock.machine import (
    bswap32,
    kernel,
    load8,
    load16,
    load16be,
    load32,
    load64,
    move,
    store8,
    store16,
    store16be,
    store32,
    store64,
)
from penstock.packet.protocols import LLC_SNAP_RAW, MAC_MASK, MPLS_ENTRY, VLAN_TAG

TCI = 14  # of the outermost tag, from the start of the frame


@kernel
def push_vlan(head, tpid, tci):
    """Insert a tag outside all others (``tpid`` and ``tci`` raw): the new start of the frame, 4 bytes lower."""
    addresses = load64(head)
    rest = load32(head + 8)
    head -= VLAN_TAG
    store64(head, addresses)
    store32(head + 8, rest)
    store16(head + 12, tpid)
    store16(head + TCI, tci)
    return head


@kernel
def pop_vlan(head):
    """Remove the outermost tag: the new start of the frame, 4 bytes higher."""
    addresses = load64(head)
    rest = load32(head + 8)
    head += VLAN_TAG
    store64(head, addresses)
    store32(head + 8, rest)
    return head


@kernel
def set_vlan_tci(head, tci, mask):
    """Replace the bits of ``mask`` in the outermost tag's TCI (both raw)."""
    store16(head + TCI, load16(head + TCI) & ~mask | tci & mask)
    return 0


@kernel
def set_vlan_vid(head, vid):
    """Set the VLAN (0..4095, a plain number) of the outermost tag."""
    store16be(head + TCI, load16be(head + TCI) & 0xF000 | vid & 0x0FFF)
    return 0


@kernel
def set_vlan_pcp(head, pcp):
    """Set the priority (0..7) of the outermost tag."""
    store8(head + TCI, load8(head + TCI) & 0x1F | (pcp & 7) << 5)
    return 0


@kernel
def store_mac(at, mac):
    """Store the low six bytes of ``mac`` at ``at``, and nothing else."""
    store32(at, mac)
    store16(at + 4, (mac & MAC_MASK) >> 32)
    return 0


@kernel
def set_eth_dst(head, mac):
    """Set the destination address (raw: the first byte lowest)."""
    return store_mac(head, mac)


@kernel
def set_eth_src(head, mac):
    """Set the source address (raw: the first byte lowest)."""
    return store_mac(head + 6, mac)


@kernel
def change_llc_length(head, l3, change):
    """Behind a SNAP header the frame carries its length instead of a type: add ``change`` to it."""
    if l3 >= 22 and load64(head + l3 - 8) & MAC_MASK == LLC_SNAP_RAW:
        length = load16be(head + l3 - 10)
        if length < 0x0600:
            store16be(head + l3 - 10, length + change)
    return 0


@kernel
def push_mpls(head, l3, eth_type, entry):
    """Insert a label stack entry before layer 3 (offset ``l3``), behind VLAN tags: the new start, 4 bytes lower.

    ``eth_type`` (raw 0x8847 or 0x8848) replaces the frame's type; ``entry`` is raw and its bottom-of-stack bit the
    caller's business.
    """
    change_llc_length(head, l3, MPLS_ENTRY)
    move(head - MPLS_ENTRY, head, l3)
    head -= MPLS_ENTRY
    store16(head + l3 - 2, eth_type)
    store32(head + l3, entry)
    return head


@kernel
def pop_mpls(head, l3, eth_type):
    """Remove the outermost label stack entry; ``eth_type`` (raw) tells of what follows: the new start, 4 higher."""
    change_llc_length(head, l3, -MPLS_ENTRY)
    move(head + MPLS_ENTRY, head, l3)
    head += MPLS_ENTRY
    store16(head + l3 - 2, eth_type)
    return head


@kernel
def set_mpls(head, l3, entry, mask):
    """Replace the bits of ``mask`` in the outermost label stack entry (both raw)."""
    store32(head + l3, load32(head + l3) & ~mask | entry & mask)
    return 0


@kernel
def dec_mpls_ttl(head, l3):
    """Take one from the outermost entry's time to live: 1, or 0 and no change when it would reach 0."""
    entry = bswap32(load32(head + l3))
    if entry & 255 <= 1:
        return 0
    store8(head + l3 + 3, (entry & 255) - 1)
    return 1
