"""What a receiver makes of segments: streams and datagrams put together again, every checksum verified by scapy."""

from __future__ import annotations

from scapy.all import IP, TCP, UDP, Ether, IPv6, IPv6ExtHdrFragment, Packet, Raw, raw
from scapy.layers.inet import defragment
from scapy.layers.inet6 import defragment6


def check(frame: bytes) -> Packet:
    """The frame dissected; fails when a checksum in it is not what scapy computes."""
    packet = Ether(frame)
    fresh = Ether(frame)
    for layer in (IP, TCP, UDP):
        if layer in fresh and not (layer is not IP and fragmented(fresh)):
            del fresh[layer].chksum
    again = Ether(raw(fresh))
    for layer in (IP, TCP, UDP):
        if layer in packet and not (layer is not IP and fragmented(packet)):
            assert packet[layer].chksum == again[layer].chksum, f"{layer.__name__} checksum of {packet.summary()}"
    return packet


def fragmented(packet: Packet) -> bool:
    """Whether it is a fragment, whose checksum covers more than what it holds."""
    if IP in packet:
        return bool(packet[IP].flags.MF or packet[IP].frag)
    return IPv6ExtHdrFragment in packet


def payload(packet: Packet) -> bytes:
    """The bytes behind the TCP or UDP header, without padding."""
    return bytes(packet[Raw].load) if Raw in packet else b""


def stream(frames: list[bytes]) -> bytes:
    """The bytes that TCP segments carry, in order; fails when a sequence number is not the next one."""
    packets = [check(frame) for frame in frames]
    expected = packets[0][TCP].seq
    data = b""
    for packet in packets:
        assert packet[TCP].seq == expected
        data += payload(packet)
        expected = (expected + len(payload(packet))) & 0xFFFFFFFF
    return data


def datagrams(frames: list[bytes]) -> list[bytes]:
    """The payloads of UDP datagrams."""
    return [payload(check(frame)) for frame in frames]


def datagram(frames: list[bytes]) -> bytes:
    """The payload of one UDP datagram in fragments; its checksum is verified too."""
    packets = [check(frame) for frame in frames]
    layer = IP if IP in packets[0] else IPv6
    if layer is IP:
        (whole,) = defragment([packet[IP] for packet in packets])
    else:
        whole = defragment6([packet[IPv6] for packet in packets])
    return payload(check(raw(Ether() / whole)))
