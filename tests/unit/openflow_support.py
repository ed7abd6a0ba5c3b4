"""A bridge's agent without a switch: flow tables in a region of the test's own, a session on bytes, no workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence

from penstock.engine.flow_region import FlowRegion, make_region, map_region, unmap_region
from penstock.engine.flow_tables import FlowTables
from penstock.openflow import experimenter, requests, stats  # noqa: F401 - their handlers register themselves
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.ports import OfPort
from penstock.openflow.session import Session
from penstock.openflow.wire import OF10, OF13, Raw, Type, message

PORTS = {1: OfPort(1, "p1", "02:00:00:00:00:01", True), 2: OfPort(2, "p2", "02:00:00:00:00:02", False)}


class Transport:
    """Of a writer that keeps what is written."""

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


class Writer:
    """What a session writes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.transport = Transport()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakeHost:
    """Implements session.Host on a region of flow tables."""

    datapath_id = 0x1122334455667788

    def __init__(self) -> None:
        fd = make_region()
        map_region(fd)
        os.close(fd)
        self.region = FlowRegion()
        self.tables = FlowTables.create(self.region, "br0")
        self.removed: list[object] = []
        self.bridge = OpenFlowBridge(self.region, self.tables, 4 * 10**9, lambda *told: self.removed.append(told))
        self.ports = dict(PORTS)
        self.packets: list[tuple[bytes, int, bytes]] = []

    def close(self) -> None:
        unmap_region()

    async def read_ports(self) -> Sequence[OfPort]:
        return list(self.ports.values())

    async def set_port_config(self, port: OfPort, config: int) -> None:
        self.ports[port.number] = OfPort(port.number, port.name, port.mac, port.up, config)

    async def packet_out(self, frame: bytes, in_port: int, instructions: bytes) -> None:
        self.bridge.programs.for_any(instructions)
        self.packets.append((frame, in_port, instructions))

    async def quiet(self) -> None:
        self.region.run_deferred()

    def claim_role(self, session: Session, role: int, generation: int | None) -> None:
        session.role = role

    def monitors_changed(self) -> None:
        pass

    def interests_changed(self) -> None:
        pass

    def greeted(self, session: Session) -> None:
        pass

    def talk(self, data: bytes, version: int = OF13, service: bool = True) -> bytes:
        """What a session answers to bytes, after it greeted in this version."""
        return asyncio.run(self._talk(data, version, service))

    def replies(self, body: bytes, version: int) -> Iterator[bytes]:
        """The answers to a request for statistics, each made when it is asked for."""
        raw = Raw(version, 0, 1, bytes(8) + body)

        async def ask() -> Iterable[bytes]:
            session = Session(self, asyncio.StreamReader(), Writer(), (version,), "test", True, version=version)  # type: ignore[arg-type]
            return await stats.answer(session, raw)

        return iter(asyncio.run(ask()))

    async def _talk(self, data: bytes, version: int, service: bool) -> bytes:
        reader, writer = asyncio.StreamReader(), Writer()
        reader.feed_data(message(version, Type.HELLO, 0) + data)
        reader.feed_eof()
        session = Session(self, reader, writer, (OF10, OF13), "test", service, probe=0.0)  # type: ignore[arg-type]
        await session.run()
        assert writer.closed
        return bytes(writer.data)
