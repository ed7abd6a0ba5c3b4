"""The engine: bridges, ports and their queues, brought up and down while workers forward. The main thread's alone.

How ports come and go is in ``installing``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Any

from penstock.datapath.fdb import FOREVER, STATIC, fdb_expire
from penstock.datapath.layout import PROTECTED_PORT, SWITCH
from penstock.datapath.pipeline.layout import EXEC
from penstock.datapath.pipeline.outputs import OFPPC_PORT_DOWN
from penstock.engine.beside import hosts_beside
from penstock.engine.cached_ways import cached_ways
from penstock.engine.fdstore import FdStore
from penstock.engine.flow_region import map_region, unmap_region
from penstock.engine.installing import add_ports, remove_ports
from penstock.engine.open_port import EngineFault, OpenPort, check_name, naming
from penstock.engine.port_map import map_ports
from penstock.engine.tables import Tables
from penstock.engine.workers import Workers
from penstock.machine import records
from penstock.memory import Arena, ArenaError, free_huge_bytes
from penstock.ports import PortContext, PortError
from penstock.ports.dummy import Dummy
from penstock.ports.loop import Loop
from penstock.ports.spec import BridgeSpec, PortSpec, PortState
from penstock.ports.tunnel.underlay import Underlay, UnderlayContext

PLAIN_ARENA_BYTES = 2 << 30  # plain pages cost nothing until they are used
HUGE_ARENA_BYTES = 512 << 20  # huge pages are taken whole, at once
DEFAULT_MTU = 1500


class Engine:
    """Bridges and ports by name over one arena."""

    def __init__(
        self,
        workers: int = 1,
        cpus: Sequence[int] = (),
        poll: str = "adaptive",
        huge_pages: bool = True,
        arena_bytes: int | None = None,
    ) -> None:
        self._store = FdStore()
        self._kept = self._store.take_all()  # where a spare engine waits until it is needed, holding nothing yet
        huge = huge_pages and free_huge_bytes() >= (arena_bytes or HUGE_ARENA_BYTES)
        self.arena = Arena.create(arena_bytes or (HUGE_ARENA_BYTES if huge else PLAIN_ARENA_BYTES), huge)
        self.tables = Tables(self.arena)
        self.workers = Workers(self.arena, workers, cpus, poll, self.tables.ports_address, self.tables.bridges_address)
        self.bridges: dict[str, tuple[int, BridgeSpec]] = {}
        self.ports: dict[str, OpenPort] = {}
        self.loop = Loop()
        self.underlay = Underlay(
            UnderlayContext(
                arena=self.arena,
                loop=self.loop,
                quiesce=self.workers.quiesce,
                kick=self.workers.kick,
                asks=self.workers.asks,
                asks_fd=self.workers.asks_fd,
                answers=self.workers.answers,
                publish_arrivals=self.workers.publish_arrivals,
                number_of=lambda name: self.ports[name].number,
                beside=lambda name: hosts_beside(self.ports, name),
            )
        )
        self._region_fd = -1
        root = self.arena.allocate(SWITCH.itemsize)
        self.arena.header["root"] = root
        records(SWITCH, root)[0] = (
            self.tables.ports_address,
            self.tables.bridges_address,
            self.workers.table,
            workers,
            self.workers.packet_out,
            self.workers.cycles_hz,
            time.time_ns(),
            os.getpid(),
        )
        self._poll = poll

    def stop(self) -> None:
        """Stop forwarding and close every port; TAPs that nothing else holds disappear."""
        remove_ports(self, list(self.ports))
        self.underlay.close()
        self.workers.stop()
        if self._region_fd >= 0:
            unmap_region()
            os.close(self._region_fd)
        self._store.close()
        self.loop.close()
        self.arena.close()

    def settle(self) -> None:
        """Let go of devices of an earlier engine that no port has claimed: the configuration has been applied."""
        for name, fds in self._kept.items():
            self._store.forget(name)
            for fd in fds:
                os.close(fd)
        self._kept.clear()

    def info(self) -> dict[str, Any]:
        """What this engine is and runs on."""
        return {
            "pid": os.getpid(),
            "started": int(records(SWITCH, int(self.arena.header["root"]))[0]["started_ns"]) / 1e9,
            "cycles_hz": self.workers.cycles_hz,
            "arena_bytes": self.arena.size,
            "arena_used": self.arena.used,
            "page_bytes": self.arena.page_bytes,
            "workers": len(self.workers.all),
            "cpus": [worker.cpu for worker in self.workers.all],
            "poll": self._poll,
            "flow_region": f"/proc/{os.getpid()}/fd/{self._region_fd}" if self._region_fd >= 0 else "",
        }

    # Bridges

    def add_bridge(self, spec: BridgeSpec) -> None:
        """Add an empty bridge."""
        check_name("bridge", spec.name)
        if spec.name in self.bridges:
            raise EngineFault(f"bridge '{spec.name}' exists already")
        try:
            number = self.tables.free_bridge_number()
            self.tables.bridges[number]["members"] = self.tables.member_list([])
            self.tables.set_bridge(number, spec)
        except (LookupError, ArenaError) as error:
            raise EngineFault(f"bridge '{spec.name}' cannot be added: {error}") from error
        self.bridges[spec.name] = number, spec

    def bridge(self, name: str) -> tuple[int, BridgeSpec]:
        """A bridge's number and spec. Raises EngineFault."""
        try:
            return self.bridges[name]
        except KeyError:
            raise EngineFault(f"no bridge '{name}'; there are: {', '.join(self.bridges) or 'none'}") from None

    def set_bridge(self, spec: BridgeSpec) -> None:
        """Change a bridge's settings. Its learned addresses are forgotten when the table's size changes."""
        number, old = self.bridge(spec.name)
        unused = self.tables.set_bridge(number, spec, spec.mac_table_size != old.mac_table_size)
        self.bridges[spec.name] = number, spec
        if unused:
            self.workers.quiesce()
            for each in unused:
                self.arena.free(each)

    def remove_bridge(self, name: str) -> None:
        """Remove a bridge that has no ports."""
        number, _spec = self.bridge(name)
        left = [port.spec.name for port in self.ports.values() if port.spec.bridge == name]
        if left:
            raise EngineFault(f"bridge '{name}' still has ports: {', '.join(left)}; remove them first")
        row = self.tables.bridges[number]
        self.workers.quiesce()
        row["state"], row["name"], row["pipeline"] = 0, b"", 0
        for column in ("fdb", "members", "flood_vlans"):
            if row[column]:
                self.arena.free(int(row[column]))
            row[column] = 0
        del self.bridges[name]

    def publish_members(self, names: Collection[str]) -> list[int]:
        """Show workers the ports that these bridges have now; old lists, to be freed after a quiet point."""
        by_bridge: dict[str, list[OpenPort]] = {name: [] for name in names}
        for port in self.ports.values():
            if port.spec.bridge in by_bridge:
                by_bridge[port.spec.bridge].append(port)
        unused = []
        for name, here in by_bridge.items():
            number, _ = self.bridge(name)
            row = self.tables.bridges[number]
            self._map_ports(number, name, int(row["pipeline"]))
            unused.append(int(row["members"]))
            row["members"] = self.tables.member_list([port.number for port in here])
            row["tunnels"] = sum(1 for port in here if port.port.tunnel)
        return unused

    # Ports

    def context(self, spec: PortSpec) -> PortContext:
        """What a new port gets of the engine."""
        return PortContext(
            arena=self.arena,
            workers=len(self.workers.all),
            mtu=spec.mtu,
            adopt=lambda name: self._kept.pop(name, None),
            keep=self._store.store,
            forget=self._store.forget,
            kick=self.workers.kick,
            quiesce=self.workers.quiesce,
            loop=self.loop,
            set_fd=lambda queue, fd: self.workers.watch(self.ports[spec.name].rxqs[queue], fd),
            refresh=self.workers.publish,
            set_offloads=lambda offloads: self.tables.set_offloads(self.ports[spec.name].number, offloads),
            underlay=self.underlay,
        )

    def add_port(self, spec: PortSpec) -> int:
        """Open a port and let it forward; its number. Raises EngineFault."""
        (error,) = add_ports(self, [spec])
        if error:
            raise EngineFault(error)
        return self.ports[spec.name].number

    def remove_port(self, name: str) -> None:
        """Stop a port's forwarding and close it. Raises EngineFault."""
        (error,) = self.remove_ports([name])
        if error:
            raise EngineFault(error)

    def remove_ports(self, names: Sequence[str]) -> list[str]:
        """Close ports: for each what went wrong, or "". What they were named after may be had by others then."""
        errors = remove_ports(self, names)
        self._store.sync()
        return errors

    # Flow tables

    def use_flow_region(self, path: str) -> None:
        """Map the region of flow tables, once: the descriptor that ``path`` (in /proc) leads to."""
        if self._region_fd >= 0:
            raise EngineFault("the engine has a region of flow tables already")
        try:
            self._region_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            map_region(self._region_fd)
        except (OSError, ArenaError) as error:
            raise EngineFault(f"flow tables at {path} cannot be used: {error}") from error
        self.workers.use_region()

    def set_pipeline(self, bridge: str, address: int) -> None:
        """Have a bridge's packets run through a pipeline of the region; 0: NORMAL forwards them."""
        number, _ = self.bridge(bridge)
        if address and self._region_fd < 0:
            raise EngineFault(f"bridge '{bridge}': the engine has no region of flow tables yet")
        self._map_ports(number, bridge, address)
        row = self.tables.bridges[number]
        if int(row["pipeline"]) != address:
            row["pipeline"] = address
            self.workers.quiesce()

    def _map_ports(self, number: int, bridge: str, pipeline: int) -> None:
        if pipeline:
            here = {port.ofport: port.number for port in self.ports.values() if port.spec.bridge == bridge}
            map_ports(pipeline, number, here)

    def set_port_config(self, name: str, config: int) -> None:
        """What OpenFlow forbids a port: OFPPC_ bits. That of being down goes for its kernel device too."""
        opened = self.port(name)
        row = self.tables.ports[opened.number]
        if (int(row["of_config"]) ^ config) & OFPPC_PORT_DOWN:
            try:
                opened.port.set_up(not config & OFPPC_PORT_DOWN)
            except PortError as error:
                raise EngineFault(naming(name, error)) from error
        row["of_config"] = config | int(row["of_config"]) & PROTECTED_PORT

    def port(self, name: str) -> OpenPort:
        """A port. Raises EngineFault."""
        try:
            return self.ports[name]
        except KeyError:
            raise EngineFault(f"no port '{name}'; there are: {', '.join(self.ports) or 'none'}") from None

    def set_port(self, spec: PortSpec) -> None:
        """Change a port's VLANs, MTU, policing or protection while it forwards.

        A change of VLANs forgets the addresses learned on it.
        """
        opened = self.port(spec.name)
        old = opened.spec
        if (spec.bridge, spec.kind, spec.options) != (old.bridge, old.kind, old.options):
            raise EngineFault(f"port '{spec.name}': bridge, type and options cannot change; remove it and add it again")
        row = self.tables.ports[opened.number]
        mtu = spec.mtu
        if mtu is None and old.mtu is not None and opened.port.makes_netdev:
            mtu = DEFAULT_MTU  # no longer asked for: what the kernel gives a new device
        if mtu is not None and mtu != opened.port.mtu:
            try:
                opened.port.set_mtu(mtu)
            except (PortError, OSError) as error:
                raise EngineFault(naming(spec.name, error)) from error
            row["mtu"] = opened.port.mtu
        if spec.vlan != old.vlan and not opened.port.vlans:
            config = int(row["config"])
            row["config"] = self.tables.vlan_config(spec.vlan)
            self.workers.quiesce()
            self.arena.free(config)
            fdb_expire(int(self.tables.bridges[int(row["bridge"])]["fdb"]), FOREVER, opened.number, STATIC)
        row["of_config"] = int(row["of_config"]) & ~PROTECTED_PORT | self.tables.protection(spec)
        if spec.policing != old.policing:
            policer = int(row["policer"])
            row["policer"] = self.tables.policer(spec.policing, self.workers.cycles_hz)
            if policer:
                self.workers.quiesce()
                self.arena.free(policer)
        opened.spec = spec

    def inject(self, name: str, frames: Sequence[bytes]) -> None:
        """Have a dummy port receive frames."""
        port = self.port(name).port
        if not isinstance(port, Dummy):
            raise EngineFault(f"port '{name}' is of type {port.kind}: only a dummy port can be told what to receive")
        try:
            port.inject(frames)
        except PortError as error:
            raise EngineFault(str(error)) from error

    def cached_ways(self, pipeline: int) -> list[Any]:
        """The version of the pipeline at an address of the flow region, and what the flow caches hold of it."""
        if self._region_fd < 0:
            raise EngineFault("there is no flow region: no bridge has flow tables")
        caches = [records(EXEC, int(worker.row["exec"]))[0] for worker in self.workers.all]
        version, ways = cached_ways(caches, pipeline)
        return [version, [way.to_json() for way in ways]]

    def rx_queues(self) -> list[list[tuple[str, int]]]:
        """For each worker, the ports and numbers of the receive queues that it polls."""
        places = {rxq: (name, queue) for name, opened in self.ports.items() for queue, rxq in enumerate(opened.rxqs)}
        return [[places[rxq] for rxq in worker.queues if rxq in places] for worker in self.workers.all]

    def set_capture(self, name: str, snaplen: int) -> None:
        """Copy the first ``snaplen`` bytes of every frame that passes the port to the control process; 0 stops it."""
        self.tables.ports[self.port(name).number]["capture"] = snaplen

    def set_punt(self, enabled: bool) -> None:
        """Whether frames for reserved group addresses go to the control process as packet-ins."""
        for worker in self.workers.all:
            worker.row["punt"] = int(enabled)

    def check_ports(self) -> None:
        """Look at every port's device. Called each second."""
        for opened in self.ports.values():
            opened.check(self.tables.ports[opened.number])

    def port_states(self) -> list[PortState]:
        """Every port as it is now."""
        self.check_ports()
        return [opened.to_state() for opened in self.ports.values()]

    def driver_stats(self) -> dict[str, dict[str, int]]:
        """Counters of the ports' devices."""
        return {name: opened.port.driver_stats() for name, opened in self.ports.items()}
