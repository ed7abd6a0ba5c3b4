"""Frames for the benchmarks: 64-byte UDP between numbered stations, and the pcap files that guests replay."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from penstock.packet.checksum import words_sum

FRAME_BYTES = 64
VXLAN_PORT = 4789
_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@dataclass(frozen=True)
class Station:
    """A host with an address."""

    mac: str
    address: str


def mac(number: int) -> bytes:
    """A locally administered unicast address."""
    return b"\x02\x00" + number.to_bytes(4, "big")


def udp_frame(source: int, destination: int, size: int = FRAME_BYTES) -> bytes:
    """A frame of ``size`` bytes."""
    payload = size - 14 - 20 - 8
    addresses = struct.pack("!II", 0x0A000000 + source, 0x0A000000 + destination)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + payload, 0, 0x4000, 64, 17, 0) + addresses
    udp = struct.pack("!HHHH", 1000 + source % 50000, 2000, 8 + payload, 0)
    return mac(destination) + mac(source) + b"\x08\x00" + ip + udp + bytes(payload)


def vxlan_frame(inner: bytes, vni: int, source: Station, destination: Station) -> bytes:
    """A frame in VXLAN between two hosts, without a UDP checksum."""
    payload = struct.pack("!II", 0x08000000, vni << 8) + inner
    udp = struct.pack("!HHHH", 50000, VXLAN_PORT, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source.address) + socket.inet_aton(destination.address)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0) + addresses
    ip = ip[:10] + struct.pack("<H", ~words_sum(ip) & 0xFFFF) + ip[12:]
    macs = bytes.fromhex((destination.mac + source.mac).replace(":", ""))
    return macs + b"\x08\x00" + ip + udp


def write_pcap(file: Path, frames: Iterable[bytes]) -> None:
    """Write frames, all with time 0."""
    with file.open("wb") as out:
        out.write(_PCAP_HEADER)
        for frame in frames:
            out.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
