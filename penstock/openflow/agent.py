"""OpenFlow for every bridge of the switch: follows the engine with the control process and makes its flow tables.

The region of flow tables outlives engines and control processes one at a time: a new engine is given the one that is
here, and a new control process takes the one that the engine has. The control process's loop thread alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.client import EngineClient
from penstock.engine.flow_region import FlowRegion, RegionError, make_region, map_region
from penstock.engine.flow_tables import FlowTables, expired
from penstock.machine import monotonic_ns
from penstock.openflow import ports as port_codec
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.host import BridgeHost
from penstock.ports.spec import BridgeSpec, PortState
from penstock.switch.engine_link import EngineLink
from penstock.switch.model import DesiredState

LOG = logging.getLogger(__name__)


class Agent:
    """Implements switch.control.Follower."""

    def __init__(self, rundir: Path, link: EngineLink) -> None:
        self.hosts: dict[str, BridgeHost] = {}
        self._rundir, self._link = rundir, link
        self._region: FlowRegion | None = None
        self._region_fd = -1
        self._cycles_hz = 0
        self._client: EngineClient | None = None
        self._configs: dict[str, int] = {}  # of the ports of the engine that was found, by name
        self._found: dict[str, FlowTables] = {}  # of a control process before this one, by bridge
        link.on_drop = self._detach

    # The engine comes and goes

    async def attach(self) -> None:
        """Have the engine that is now connected use the region."""
        client, info = await self._link.call(lambda client: (client, client.info()))
        self._cycles_hz = info["cycles_hz"]
        if self._region is None:
            self._take_region(info)
            configs = await self._link.call(lambda client: client.port_configs())
            self._configs = {name: port_codec.from_datapath(config) for name, config in configs.items()}
        if not info["flow_region"]:
            path = f"/proc/{os.getpid()}/fd/{self._region_fd}"
            await self._link.call(lambda client: client.use_flow_region(path))
        assert self._region is not None
        self._client = client
        self._region.set_workers(client.worker_rows())

    def _take_region(self, info: Mapping[str, Any]) -> None:
        if info["flow_region"]:
            self._region_fd = os.open(info["flow_region"], os.O_RDWR | os.O_CLOEXEC)
        else:
            self._region_fd = make_region()
        map_region(self._region_fd)
        self._region = FlowRegion()
        for address in self._region.pipelines():
            tables = FlowTables.resume(self._region, address)
            name = tables.row["name"].decode()
            LOG.info("bridge %s: took over %d flows", name, tables.count)
            self._found[name] = tables

    def _detach(self) -> None:
        """The engine is gone, and its memory soon."""
        client, self._client = self._client, None
        if client is not None:
            asyncio.get_running_loop().remove_reader(client.packet_in_fd)
        if self._region is not None:
            self._region.set_workers(())

    async def bridges(self, desired: DesiredState) -> None:
        """Give each bridge that the engine has its flow tables, before ports are added."""
        assert self._region is not None
        present = await self._link.call(lambda client: client.bridges())
        for name in list(self.hosts):
            if name not in desired.bridges:
                gone = self.hosts.pop(name)
                await gone.close()
                gone.bridge.destroy()
        for name, spec in desired.bridges.items():
            if name not in present:
                continue
            if name not in self.hosts:
                try:
                    self.hosts[name] = self._make(spec, self._region)
                except RegionError as error:
                    LOG.error("bridge %s: no flow tables, so NORMAL forwards: %s", name, error)
                    continue
            host = self.hosts[name]
            await host.configure(spec)
            address = host.bridge.tables.address
            await self._link.call(lambda client, name=name, address=address: client.set_pipeline(name, address))  # type: ignore[misc]
        for name in list(self._found):
            if name not in desired.bridges:
                tables = self._found.pop(name)
                OpenFlowBridge(self._region, tables, self._cycles_hz, lambda _entry, _reason: None).destroy()
        self._listen()

    def _listen(self) -> None:
        """Take packet-ins from now on; bridges are there to take them."""
        if self._client is not None:
            asyncio.get_running_loop().add_reader(self._client.packet_in_fd, self._read_packet_ins)
            self._read_packet_ins()

    def _make(self, spec: BridgeSpec, region: FlowRegion) -> BridgeHost:
        tables = self._found.pop(spec.name, None)
        fresh = tables is None
        if tables is None:
            tables = FlowTables.create(region, spec.name)
        host = BridgeHost(
            spec, self._link, region, tables, self._rundir, self._cycles_hz, self._packet_outs, self._configs
        )
        if fresh:
            host.add_default()
        else:
            host.resume()
        return host

    async def ports(self, states: Mapping[str, PortState], *, fresh: bool) -> None:
        """Take note of the ports as they are; ``fresh``: of an engine that knows nothing yet of what is forbidden."""
        for host in self.hosts.values():
            host.follow_ports(states)
            if fresh:
                await host.restore_configs()

    async def close(self) -> None:
        """End all connections; flows stay."""
        for host in self.hosts.values():
            await host.close()

    # Packets and time

    def _packet_outs(self) -> tuple[int, int]:
        """Bytes of packet-outs that were written and that workers have taken."""
        client = self._client
        return (client.packet_outs_written(), client.packet_outs_sent()) if client is not None else (0, 0)

    def _read_packet_ins(self) -> None:
        """Hand on what workers have for controllers, and ask to be woken for more."""
        client = self._client
        if client is None:
            return
        with suppress(BlockingIOError):  # called too for what came before anyone listened
            os.eventfd_read(client.packet_in_fd)
        hosts = {host.bridge.tables.address: host for host in self.hosts.values()}
        found = client.packet_ins()
        for each in found:
            host = hosts.get(each.pipeline)
            if host is not None:
                host.take_packet_in(each)
        if found or not client.ask_to_be_woken():
            asyncio.get_running_loop().call_soon(self._read_packet_ins)

    async def tick(self) -> None:
        """Once a second: time-outs, and what waits for quiet points."""
        if self._region is None:
            return
        self._region.run_deferred()
        hosts = {host.bridge.tables.address: host for host in self.hosts.values()}
        while gone := expired(int(monotonic_ns())):
            owned = {address: flows for address, flows in self._region.by_pipeline(gone).items() if address in hosts}
            for address, flows in owned.items():
                hosts[address].bridge.expire(flows)
            if not owned:
                break
        for host in self.hosts.values():
            host.release_sent()
            host.check_alone()
