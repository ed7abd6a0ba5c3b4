"""Tunnels in the arena: maps that grow, endpoints in slabs, and ARRIVALS. Written by the engine's main thread alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.datapath.hashmap import map_bytes, map_copy, map_get, map_init, map_put
from penstock.datapath.tunnel.layout import (
    ADDRESS,
    ARRIVALS,
    ENDPOINT,
    FLOOD_ENDPOINTS,
    HEADER,
    LOCALS_MAX,
    READY,
    SERVICES_MAX,
    UNRESOLVED,
)
from penstock.machine import records, store64, store_release
from penstock.memory import Arena
from penstock.ports.tunnel.header import Header
from penstock.ports.tunnel.routes import IpAddress, Local

SLAB = 256  # endpoints that are allocated together
FIRST_ENTRIES = 16
SIGN = 1 << 63


def signed(word: int) -> int:
    """A 64-bit pattern as the signed integer that compiled functions take."""
    return (word + SIGN) % (1 << 64) - SIGN


def address_bytes(address: IpAddress | None) -> bytes:
    """An address as tunnels' structs hold it; None is zeros."""
    return (address.packed if address is not None else b"").ljust(ADDRESS, b"\0")


def address_words(address: IpAddress | None) -> tuple[int, int]:
    """The same as two words."""
    data = address_bytes(address)
    return int.from_bytes(data[:8], "little", signed=True), int.from_bytes(data[8:], "little", signed=True)


class GrowingMap:
    """A MAP whose address is told anew, through ``publish``, whenever it had to grow."""

    def __init__(self, arena: Arena, publish: Callable[[int], None], quiesce: Callable[[], None]) -> None:
        self._arena, self._publish, self._quiesce = arena, publish, quiesce
        self._entries = FIRST_ENTRIES
        self.address = self._make()
        publish(self.address)

    def _make(self) -> int:
        address = self._arena.allocate(map_bytes(self._entries))
        map_init(address, self._entries)
        return address

    def put(self, key: int, value: int) -> None:
        """Give a key a value; 0 takes it out."""
        if not map_put(self.address, signed(key), value):
            old = self.address
            self._entries *= 2
            self.address = self._make()
            map_copy(old, self.address)
            map_put(self.address, signed(key), value)
            self._publish(self.address)
            self._quiesce()
            self._arena.free(old)

    def get(self, key: int) -> int:
        """The value of a key, or 0."""
        return map_get(self.address, signed(key))

    def free(self) -> None:
        """Give the memory back; no worker may look at it any more."""
        self._arena.free(self.address)


class Endpoints:
    """Memory of ENDPOINTs, all tunnel ports' together."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._free: list[int] = []

    def take(self) -> int:
        """The address of an endpoint, UNRESOLVED and zero."""
        if not self._free:
            slab = self._arena.allocate(SLAB * ENDPOINT.itemsize)
            self._free = [slab + i * ENDPOINT.itemsize for i in reversed(range(SLAB))]
        address = self._free.pop()
        records(ENDPOINT, address)[0] = np.zeros(1, ENDPOINT)[0]
        return address

    def give(self, address: int) -> None:
        """Give one back, after a quiet point."""
        self._free.append(address)


def write_asked(endpoint: int, local: IpAddress | None, remote: IpAddress, number: int) -> Any:
    """Say which far end an endpoint is; its record."""
    row = records(ENDPOINT, endpoint)[0]
    row["asked"] = np.frombuffer(address_bytes(local) + address_bytes(remote), np.uint8)
    row["number"] = number
    return row


def write_header(endpoint: int, header: Header, underlay: int, mtu: int) -> None:
    """Fill an UNRESOLVED endpoint and make it READY."""
    row = records(ENDPOINT, endpoint)[0]
    row["underlay"], row["length"] = underlay, len(header.data)
    row["l3"], row["l4"], row["key_at"], row["sum"] = header.l3, header.l4, header.key_at, header.sum
    row["six"] = int(header.data[header.l3] >> 4 == 6)
    row["room"] = mtu - (len(header.data) - header.l3)
    row["header"][: len(header.data)] = np.frombuffer(header.data, np.uint8)
    store_release(endpoint, READY | underlay << 32)  # state and underlay are one word


def write_next_hop(endpoint: int, mac: bytes) -> None:
    """Give a READY endpoint another next hop on the same link, by one store."""
    row = records(ENDPOINT, endpoint)[0]
    first = mac + bytes(row["header"][6:8])
    store64(endpoint + HEADER, int.from_bytes(first, "little", signed=True))


def set_unresolved(endpoint: int) -> None:
    """Have packets for an endpoint wait from now on."""
    row = records(ENDPOINT, endpoint)[0]
    store_release(endpoint, UNRESOLVED | int(row["underlay"]) << 32)


def make_flood(arena: Arena, endpoints: Sequence[int]) -> int:
    """A FLOOD of these; its address."""
    address = arena.allocate(FLOOD_ENDPOINTS + 8 * max(1, len(endpoints)))
    store64(address, len(endpoints))
    if endpoints:
        records(np.dtype(np.int64), address + FLOOD_ENDPOINTS, len(endpoints))[:] = endpoints
    return address


def make_arrivals(
    arena: Arena, table: int, services: Sequence[int], gre: int, classes: Sequence[int], locals_: Sequence[Local]
) -> int:
    """An ARRIVALS; its address. Addresses beyond LOCALS_MAX of a family are left out."""
    address = arena.allocate(ARRIVALS.itemsize)
    row = records(ARRIVALS, address)[0]
    four = [int.from_bytes(each.packed, "little") | port << 32 for port, each in locals_ if each.version == 4]
    four = four[:LOCALS_MAX]
    locals6 = [(port, each) for port, each in locals_ if each.version == 6][:LOCALS_MAX]
    six = [word for _, each in locals6 for word in address_words(each)]
    row["map"], row["gre"] = table, gre
    row["service_count"], row["services"][: len(services)] = len(services), services
    row["class_count"], row["classes"][: len(classes)] = len(classes), classes
    row["local4_count"], row["locals4"][: len(four)] = len(four), four
    row["local6_count"], row["locals6"][: len(six)] = len(locals6), six
    row["ports6"][: len(locals6)] = [port for port, _ in locals6]
    assert len(services) <= SERVICES_MAX
    return address
