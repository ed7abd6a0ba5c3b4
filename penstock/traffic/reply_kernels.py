"""Replies of a sink: frames sent back to where they came from, and the answers of a small IPv4 host to ARP and ping.

A reply is the received frame itself, its headers changed in place. Checksums stay right: swapping addresses does not
change a ones' complement sum, and an echo reply's is mended for its type. Runs on the loop's thread.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at
from penstock.machine import kernel, load8, load16, load32, load64, store16, store32
from penstock.packet.checksum import update16
from penstock.packet.parse import ETHERNET_IPV4_ARP
from penstock.packet.protocols import (
    ARP_PACKET,
    ARP_RAW,
    ICMP,
    ICMP_HEADER,
    IPV4_HEADER,
    IPV4_RAW,
    IPV6_HEADER,
    IPV6_RAW,
    MAC_MASK,
    TCP,
    UDP,
    raw16,
)
from penstock.traffic.layout import REPLY_ANSWER, REPLY_REFLECT, sink_at
from penstock.traffic.stamp_kernels import network_header

REQUEST_RAW, RESPONSE_RAW = raw16(1), raw16(2)
ECHO_REQUEST_RAW, ECHO_REPLY_RAW = 8, 0  # type and code, as a raw word
FRAGMENT = 0xFF3F  # fragment offset and more fragments, as a raw word


@kernel
def set_mac(at, mac):
    """Store a MAC address given as a raw word."""
    store32(at, mac & 0xFFFFFFFF)
    return store16(at + 4, mac >> 32)


@kernel
def swap_macs(head):
    """Send a frame back: its source becomes its destination."""
    destination = load64(head) & MAC_MASK
    set_mac(head, load64(head + 6) & MAC_MASK)
    return set_mac(head + 6, destination)


@kernel
def swap_words(first, second):
    """Exchange two words of 32 bits."""
    word = load32(first)
    store32(first, load32(second))
    return store32(second, word)


@kernel
def swap_ports(at, length, proto):
    """Exchange the ports of a UDP or TCP header of which ``length`` bytes are there."""
    if (proto == UDP or proto == TCP) and length >= 4:
        word = load16(at)
        store16(at, load16(at + 2))
        store16(at + 2, word)
    return 0


@kernel
def reflect(packet):
    """Exchange source and destination in every layer: 1; 0 for a frame that was not sent to one station."""
    p = packet_at(packet)
    l3 = network_header(p.head, p.head_len)
    if l3 == 0 or load8(p.head) & 1 != 0:
        return 0
    swap_macs(p.head)
    at = p.head + l3
    left = p.head_len - l3
    kind = load16(at - 2)
    if kind == IPV4_RAW and left >= IPV4_HEADER:
        swap_words(at + 12, at + 16)
        header = (load8(at) & 15) * 4
        if load16(at + 6) & FRAGMENT == 0 and header >= IPV4_HEADER:
            swap_ports(at + header, left - header, load8(at + 9))
    elif kind == IPV6_RAW and left >= IPV6_HEADER:
        for word in range(4):
            swap_words(at + 8 + word * 4, at + 24 + word * 4)
        swap_ports(at + IPV6_HEADER, left - IPV6_HEADER, load8(at + 6))
    return 1


@kernel
def answer_arp(sink, head, at):
    """Answer the ARP packet (RFC 826) at ``at`` if it asks for this host: 1, else 0."""
    s = sink_at(sink)
    asker = load32(at + 14)
    if load64(at) & MAC_MASK != ETHERNET_IPV4_ARP or load16(at + 6) != REQUEST_RAW or load32(at + 24) != s.address:
        return 0
    if asker & s.netmask != s.address & s.netmask:
        return 0
    mac = load64(at + 8) & MAC_MASK
    set_mac(head, mac)
    set_mac(head + 6, s.mac)
    store16(at + 6, RESPONSE_RAW)
    set_mac(at + 8, s.mac)
    store32(at + 14, s.address)
    set_mac(at + 18, mac)
    store32(at + 24, asker)
    return 1


@kernel
def answer_echo(sink, head, at, left):
    """Answer the IPv4 packet at ``at`` if it is a whole echo request (RFC 792) to this host: 1, else 0."""
    s = sink_at(sink)
    header = (load8(at) & 15) * 4
    if load32(at + 16) != s.address or load8(at + 9) != ICMP or load16(at + 6) & FRAGMENT != 0:
        return 0
    if header < IPV4_HEADER or left < header + ICMP_HEADER or load64(head) & MAC_MASK != s.mac:
        return 0
    message = at + header
    if load16(message) != ECHO_REQUEST_RAW:
        return 0
    store16(message + 2, update16(load16(message + 2), ECHO_REQUEST_RAW, ECHO_REPLY_RAW))
    store16(message, ECHO_REPLY_RAW)
    swap_words(at + 12, at + 16)
    swap_macs(head)
    return 1


@kernel
def answer(sink, packet):
    """Make an answer of a frame that asks this host something: 1, or 0 when it does not."""
    p = packet_at(packet)
    l3 = network_header(p.head, p.head_len)
    if l3 == 0:
        return 0
    at = p.head + l3
    left = p.head_len - l3
    kind = load16(at - 2)
    if kind == ARP_RAW and left >= ARP_PACKET:
        return answer_arp(sink, p.head, at)
    if kind == IPV4_RAW and left >= IPV4_HEADER:
        return answer_echo(sink, p.head, at, left)
    return 0


@kernel
def reply(sink, packet):
    """Make a reply of a received frame where the sink is to: 1, or 0 when nothing is to be sent."""
    asked = sink_at(sink).reply
    if asked & REPLY_ANSWER != 0 and answer(sink, packet) == 1:
        return 1
    if asked & REPLY_REFLECT != 0:
        return reflect(packet)
    return 0
