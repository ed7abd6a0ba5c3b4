"""ICMP echo from a host, by raw sockets, so that no ping program is needed (RFC 792, RFC 4443)."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from dataclasses import dataclass

from penstock.demo.hosts import Host

ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
REQUEST4, REPLY4, REQUEST6, REPLY6 = 8, 0, 128, 129


@dataclass(frozen=True)
class Echoes:
    """What came back: per echo request the round-trip time in seconds, or why there is none."""

    outcomes: tuple[float | str, ...]

    @property
    def sent(self) -> int:
        return len(self.outcomes)

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(each for each in self.outcomes if isinstance(each, float))

    @property
    def received(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Missing:
    """How many of a ping program's requests had no reply, and how many on end at most."""

    count: int
    longest: int

    @classmethod
    def of(cls, output: str, sent: int) -> Missing:
        """From what the program prints (iputils counts from 1, busybox from 0)."""
        first = 1 if "icmp_seq=" in output else 0
        replied = {int(number) - first for number in re.findall(r"seq=(\d+) ttl=", output)}
        longest = run = 0
        for number in range(sent):
            run = 0 if number in replied else run + 1
            longest = max(longest, run)
        return cls(sent - len(replied), longest)


def ping(host: Host, address: str, count: int = 3, timeout: float = 1.0, size: int = 56) -> Echoes:
    """Send `count` echo requests of `size` payload bytes in turn; waits `timeout` seconds for each reply."""
    version6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if version6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with host.entered():
        endpoint = socket.socket(family, socket.SOCK_RAW, protocol)
    identifier = os.getpid() & 0xFFFF
    outcomes: list[float | str] = []
    with endpoint:
        for sequence in range(1, count + 1):
            request = _request(version6, identifier, sequence, bytes(index & 255 for index in range(size)))
            began = time.monotonic()
            try:
                endpoint.sendto(request, (address, 0))
            except OSError as error:  # no route, or the kernel's word that an earlier request found nobody
                outcomes.append(str(error))
                time.sleep(0.1)
                continue
            replied = _await_reply(endpoint, version6, identifier, sequence, began + timeout)
            outcomes.append(time.monotonic() - began if replied else "no reply")
    return Echoes(tuple(outcomes))


def _request(version6: bool, identifier: int, sequence: int, payload: bytes) -> bytes:
    kind = REQUEST6 if version6 else REQUEST4
    blank = ECHO.pack(kind, 0, 0, identifier, sequence) + payload
    # The kernel fills in the checksum of ICMPv6, as it covers addresses that only the kernel knows.
    checksum = 0 if version6 else _checksum(blank)
    return ECHO.pack(kind, 0, checksum, identifier, sequence) + payload


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _await_reply(endpoint: socket.socket, version6: bool, identifier: int, sequence: int, deadline: float) -> bool:
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([endpoint], [], [], left)
        if not readable:
            return False
        packet = endpoint.recv(65535)
        if not version6:
            packet = packet[(packet[0] & 15) * 4 :]  # a raw IPv4 socket delivers the IP header too
        if len(packet) < ECHO.size:
            continue
        kind, _, _, replied, number = ECHO.unpack_from(packet)
        if (kind, replied, number) == (REPLY6 if version6 else REPLY4, identifier, sequence):
            return True
    return False
