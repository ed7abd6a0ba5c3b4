"""Frames for the benchmarks: 64-byte UDP between numbered stations, and the pcap files that guests replay."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

FRAME_BYTES = 64
_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def mac(number: int) -> bytes:
    """A locally administered unicast address."""
    return b"\x02\x00" + number.to_bytes(4, "big")


def udp_frame(source: int, destination: int) -> bytes:
    """A 64-byte frame (60 without checksum in memory, as devices hand it over, padded to 64)."""
    payload = FRAME_BYTES - 14 - 20 - 8
    addresses = struct.pack("!II", 0x0A000000 + source, 0x0A000000 + destination)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + payload, 0, 0x4000, 64, 17, 0) + addresses
    udp = struct.pack("!HHHH", 1000 + source % 50000, 2000, 8 + payload, 0)
    return mac(destination) + mac(source) + b"\x08\x00" + ip + udp + bytes(payload)


def write_pcap(file: Path, frames: Iterable[bytes]) -> None:
    """Write frames, all with time 0."""
    with file.open("wb") as out:
        out.write(_PCAP_HEADER)
        for frame in frames:
            out.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
