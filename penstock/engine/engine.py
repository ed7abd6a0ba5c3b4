"""The engine: bridges, ports and their queues, brought up and down while workers forward. The main thread's alone.

Everything workers follow is prepared first, then published by a pointer or state store; what is taken away is
unpublished, then a quiet point is awaited, then it is freed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from penstock.datapath.fdb import FOREVER, REMOTE_SHIFT, STATIC, fdb_add_static, fdb_expire
from penstock.datapath.layout import EGRESS_PATCH, PORT_DOWN, PORT_UP, RXQ, SWITCH
from penstock.datapath.pipeline.outputs import OFPPC_PORT_DOWN
from penstock.engine.fdstore import FdStore
from penstock.engine.flow_region import map_region, unmap_region
from penstock.engine.open_port import EngineFault, OpenPort, check_name, naming
from penstock.engine.port_map import map_ports
from penstock.engine.tables import NO_PEER, OFPORT_LOCAL, Tables
from penstock.engine.workers import Workers
from penstock.machine import records
from penstock.memory import Arena, ArenaError, free_huge_bytes
from penstock.ports import KINDS, PortContext, PortError
from penstock.ports.loop import Loop
from penstock.ports.netdev import parse_mac
from penstock.ports.spec import BridgeSpec, PortSpec, PortState
from penstock.ports.tunnel.underlay import Underlay, UnderlayContext

PLAIN_ARENA_BYTES = 2 << 30  # plain pages cost nothing until they are used
HUGE_ARENA_BYTES = 512 << 20  # huge pages are taken whole, at once
DEFAULT_MTU = 1500
VLAN_MAX = 4094


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
                set_local=self.tables.set_local,
                number_of=lambda name: self.ports[name].number,
                beside=self._hosts_beside,
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
        for name in list(self.ports):
            self.remove_port(name)
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

    def _bridge(self, name: str) -> tuple[int, BridgeSpec]:
        try:
            return self.bridges[name]
        except KeyError:
            raise EngineFault(f"no bridge '{name}'; there are: {', '.join(self.bridges) or 'none'}") from None

    def set_bridge(self, spec: BridgeSpec) -> None:
        """Change a bridge's settings. Its learned addresses are forgotten when the table's size changes."""
        number, old = self._bridge(spec.name)
        fdb = int(self.tables.bridges[number]["fdb"])
        resized = spec.mac_table_size != old.mac_table_size
        self.tables.set_bridge(number, spec, resized)
        self.bridges[spec.name] = number, spec
        if resized:
            self.workers.quiesce()
            self.arena.free(fdb)

    def remove_bridge(self, name: str) -> None:
        """Remove a bridge that has no ports."""
        number, _spec = self._bridge(name)
        left = [port.spec.name for port in self.ports.values() if port.spec.bridge == name]
        if left:
            raise EngineFault(f"bridge '{name}' still has ports: {', '.join(left)}; remove them first")
        row = self.tables.bridges[number]
        self.workers.quiesce()
        row["state"], row["name"], row["pipeline"] = 0, b"", 0
        for column in ("fdb", "members"):
            self.arena.free(int(row[column]))
        del self.bridges[name]

    def _publish_members(self, bridge: int, name: str) -> None:
        row = self.tables.bridges[bridge]
        self._map_ports(bridge, name, int(row["pipeline"]))
        old = int(row["members"])
        here = [port for port in self.ports.values() if port.spec.bridge == name]
        row["members"] = self.tables.member_list([port.number for port in here])
        row["tunnels"] = sum(1 for port in here if port.port.tunnel)
        self.workers.quiesce()
        self.arena.free(old)

    # Ports

    def _context(self, spec: PortSpec) -> PortContext:
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
        """Open a port and let it forward; its number."""
        bridge, _ = self._bridge(spec.bridge)
        check_name("port", spec.name)
        if spec.name in self.ports:
            raise EngineFault(f"port '{spec.name}' exists already, on bridge '{self.ports[spec.name].spec.bridge}'")
        if spec.kind not in KINDS:
            raise EngineFault(
                f"port '{spec.name}': type '{spec.kind}' is unknown; known are: {', '.join(sorted(KINDS))}"
            )
        kind = KINDS[spec.kind]
        try:
            number = self.tables.free_port_number()
            port = kind(spec.name, kind.Options(**spec.options), self._context(spec))
            port.open()
        except (LookupError, TypeError, PortError, ArenaError, OSError) as error:
            raise EngineFault(naming(spec.name, error)) from error
        opened = OpenPort(number, spec, port)
        try:
            self._install(opened, bridge)
        except BaseException as error:
            # Whatever went wrong, nothing half-made stays.
            self._uninstall(opened)
            if isinstance(error, ArenaError | OSError):
                raise EngineFault(naming(spec.name, error)) from error
            raise
        self._link_patches()
        self._show_internal()
        port.start()
        return number

    def _hosts_beside(self, name: str) -> list[int]:
        """The numbers of the internal ports in the bridge of a port."""
        bridge = self.ports[name].spec.bridge
        return [each.number for each in self.ports.values() if each.port.is_host and each.spec.bridge == bridge]

    def _show_internal(self) -> None:
        """Tell the underlay what devices the host's own addresses may be on."""
        hosts = {each.port.netdev: each.number for each in self.ports.values() if each.port.is_host}
        self.underlay.set_internal(hosts)

    def _install(self, opened: OpenPort, bridge: int) -> None:
        port, spec, number = opened.port, opened.spec, opened.number
        opened.ofport = self._ofport(spec, bridge)
        row = self.tables.add_port(number, spec.name, bridge, spec.vlan, port.mtu, port.egress)
        self.tables.set_ofport(number, opened.ofport)
        row["tunnel"] = port.tunnel
        if port.vlans:
            self.tables.carry_vlans(number, port.vlans)
        scratch = [(int(worker.row["tx_scratch"]), int(worker.row["after"])) for worker in self.workers.all]
        opened.locks = self.tables.set_txqs(number, port.tx, port.offloads, scratch)
        self.ports[spec.name] = opened
        row["state"] = PORT_UP
        opened.check(self.tables.ports[opened.number])
        for each in port.rx:
            rxq = self.arena.allocate(RXQ.itemsize)
            row = records(RXQ, rxq)[0]
            row["rx"], row["release"], row["pending"], row["arm"] = each.rx, each.release, each.pending, each.arm
            row["ctx"], row["fd"], row["port"] = each.ctx, each.fd, number
            opened.rxqs.append(rxq)
            self.workers.deal(rxq)
        self.workers.publish()
        self._publish_members(bridge, spec.bridge)

    def _ofport(self, spec: PortSpec, bridge: int) -> int:
        """The OpenFlow number that a port asks for, or one that is free in its bridge."""
        if spec.kind == "internal" and spec.name == spec.bridge:
            return OFPORT_LOCAL
        if spec.ofport is None:
            return self.tables.free_ofport(bridge)
        for other in self.ports.values():
            if other.spec.bridge == spec.bridge and other.ofport == spec.ofport:
                raise EngineFault(
                    f"port '{spec.name}': OpenFlow port {spec.ofport} is port '{other.spec.name}' already"
                )
        return spec.ofport

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
        number, _ = self._bridge(bridge)
        if address and self._region_fd < 0:
            raise EngineFault(f"bridge '{bridge}': the engine has no region of flow tables yet")
        self._map_ports(number, bridge, address)
        self.tables.bridges[number]["pipeline"] = address
        self.workers.quiesce()

    def _map_ports(self, number: int, bridge: str, pipeline: int) -> None:
        if pipeline:
            here = {port.ofport: port.number for port in self.ports.values() if port.spec.bridge == bridge}
            map_ports(pipeline, number, here)

    def set_port_config(self, name: str, config: int) -> None:
        """What OpenFlow forbids a port: OFPPC_ bits. That of being down goes for its kernel device too."""
        opened = self._port(name)
        row = self.tables.ports[opened.number]
        if (int(row["of_config"]) ^ config) & OFPPC_PORT_DOWN:
            try:
                opened.port.set_up(not config & OFPPC_PORT_DOWN)
            except PortError as error:
                raise EngineFault(naming(name, error)) from error
        row["of_config"] = config

    def _port(self, name: str) -> OpenPort:
        try:
            return self.ports[name]
        except KeyError:
            raise EngineFault(f"no port '{name}'; there are: {', '.join(self.ports) or 'none'}") from None

    def _uninstall(self, opened: OpenPort) -> None:
        self.ports.pop(opened.spec.name, None)
        row = self.tables.ports[opened.number]
        if row["name"]:
            bridge, _ = self.bridges[opened.spec.bridge]
            row["state"] = PORT_DOWN
            for rxq in opened.rxqs:
                self.workers.withdraw(rxq)
            self.workers.publish()
            self._publish_members(bridge, opened.spec.bridge)
            self._link_patches()
            self._show_internal()
            fdb_expire(int(self.tables.bridges[bridge]["fdb"]), FOREVER, opened.number, 0)
            self.workers.quiesce()
            for address in (*opened.rxqs, *([opened.locks] if opened.locks else [])):
                self.arena.free(address)
            self.tables.clear_port(opened.number)
        opened.port.close()

    def remove_port(self, name: str) -> None:
        """Stop a port's forwarding and close it."""
        opened = self._port(name)
        opened.port.stop()
        self._uninstall(opened)

    def set_port(self, spec: PortSpec) -> None:
        """Change a port's VLANs or MTU while it forwards; a change of VLANs forgets the addresses learned on it."""
        opened = self._port(spec.name)
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
        opened.spec = spec

    def add_fdb(self, bridge: str, port: str, vlan: int, mac: str, remote: str | None = None) -> None:
        """Add an address of a port, or of a tunnel port's far end, that neither ages nor moves, until it is removed."""
        number, _ = self._bridge(bridge)
        opened = self._port(port)
        if opened.spec.bridge != bridge:
            raise EngineFault(f"port '{port}' is on bridge '{opened.spec.bridge}', not on '{bridge}'")
        if not 0 <= vlan <= VLAN_MAX:
            raise EngineFault(f"VLAN {vlan} is out of range: 0 (untagged) to {VLAN_MAX}")
        try:
            key = int.from_bytes(parse_mac(port, mac), "little") | vlan << 48
            place = opened.number
            if remote is not None:
                place |= self.underlay.remote_number(port, remote) << REMOTE_SHIFT
        except PortError as error:
            raise EngineFault(str(error)) from error
        if not fdb_add_static(int(self.tables.bridges[number]["fdb"]), key, place, int(time.monotonic())):
            raise EngineFault(f"bridge '{bridge}': no room for MAC address {mac} beside other static ones")

    def set_capture(self, name: str, snaplen: int) -> None:
        """Copy the first ``snaplen`` bytes of every frame that passes the port to the control process; 0 stops it."""
        self.tables.ports[self._port(name).number]["capture"] = snaplen

    def set_punt(self, enabled: bool) -> None:
        """Whether frames for reserved group addresses go to the control process as packet-ins."""
        for worker in self.workers.all:
            worker.row["punt"] = int(enabled)

    def _link_patches(self) -> None:
        """Join patch ports that name each other; one whose peer is missing or names another drops what it gets."""
        for opened in self.ports.values():
            row = self.tables.ports[opened.number]
            if row["egress"] != EGRESS_PATCH:
                continue
            wanted = opened.spec.options["peer"]
            peer = self.ports.get(wanted)
            joined = peer is not None and peer.spec.options.get("peer") == opened.spec.name
            row["peer"] = peer.number if peer is not None and joined else NO_PEER
            opened.state, opened.error = "up", ""
            if not joined:
                opened.state = "error"
                opened.error = f"peer '{wanted}' " + ("does not exist" if peer is None else "does not name this port")

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
