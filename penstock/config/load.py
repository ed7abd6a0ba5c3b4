"""Read one TOML file into desired state, or say everything that is wrong with it.

Checks go from the outside in: TOML's syntax, the tables, each key by its declaration, then what must hold between ports
(one name, one net device, mutual patch peers). Nothing here touches the machine: whether a net device exists
is known only when the port is made, and may change while the switch runs.

Some options have a meaning of their own, whatever the kind: `netdev` and `device` claim that net device for the port
(a kind that makes one claims the port's own name without them), and `peer` names a port of the same kind which must
name this one back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.config.engine_table import engine_settings
from penstock.config.errors import ConfigError, Problem, join_key
from penstock.config.schema import check_table, settings_of, shown
from penstock.config.tables import PORT_SETTINGS, flow_table, policing, vlan_config
from penstock.config.toml_file import read_toml
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.text_match import TextError
from penstock.openflow.wire import OpenFlowError
from penstock.ports import KINDS
from penstock.ports.spec import BridgeSpec, PortSpec
from penstock.switch.errors import unknown
from penstock.switch.model import DesiredState

_IFNAME_BYTES = 15
_TOP_KEYS = ("bridge", "engine")
_BRIDGE_TABLES = ("port", "table")
_NETDEV_OPTIONS = ("netdev", "device")


def load(file: Path) -> DesiredState:
    """The desired state that `file` asks for. Raises ConfigError with every problem found."""
    return _Reader(file).read(read_toml(file))


class _Reader:
    """One reading of one file; collects problems on the way and raises them together at the end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.bridges: dict[str, BridgeSpec] = {}
        self.ports: dict[str, PortSpec] = {}
        self.paths: dict[str, str] = {}

    def read(self, data: Mapping[str, Any]) -> DesiredState:
        for key in data:
            if key not in _TOP_KEYS:
                self._problem(key, unknown("table", key, _TOP_KEYS))
        engine = engine_settings(data, self.problems)
        for name, path, table in self._tables(data, "", "bridge"):
            self._bridge(name, path, table)
        self._check_netdevs()
        self._check_peers()
        self._check_flows()
        if self.problems:
            raise ConfigError(self.file, self.problems)
        return DesiredState(self.bridges, self.ports, engine)

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def _tables(self, parent: Mapping[str, Any], path: str, key: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """The tables inside parent[key], each with its name and full path, as far as they are tables."""
        path = join_key(path, key)
        tables = parent.get(key, {})
        if not isinstance(tables, dict):
            self._problem(path, f"{shown(tables)} is wrong: must be a table, as in [{join_key(path, 'NAME')}]")
            return
        for name, table in tables.items():
            if isinstance(table, dict):
                yield name, join_key(path, name), table
            else:
                self._problem(join_key(path, name), f"{shown(table)} is wrong: must be a table")

    def _bridge(self, name: str, path: str, table: Mapping[str, Any]) -> None:
        self._check_name("bridge", name, path)
        settings = settings_of(BridgeSpec)
        for key in table:
            if key not in settings and key not in _BRIDGE_TABLES:
                self._problem(join_key(path, key), unknown("key", key, [*settings, *_BRIDGE_TABLES]))
        own = {key: value for key, value in table.items() if key in settings}
        values = check_table(own, settings, path, self.problems)
        tables = (flow_table(*each, self.problems) for each in self._tables(table, path, "table"))
        self.bridges[name] = BridgeSpec(name=name, **values, tables=tuple(each for each in tables if each is not None))
        for port_name, port_path, port in self._tables(table, path, "port"):
            self._port(name, port_name, port_path, port)

    def _port(self, bridge: str, name: str, path: str, table: Mapping[str, Any]) -> None:
        if name in self.paths:
            self._problem(
                path, f"the name {name!r} is taken by {self.paths[name]}; port names are unique in the switch"
            )
            return
        self.paths[name] = path
        kind = table.get("type")
        if not isinstance(kind, str) or kind not in KINDS:
            message = f"is missing: must be one of {', '.join(KINDS)}"
            if "type" in table:
                message = (
                    unknown("type", kind, KINDS)
                    if isinstance(kind, str)
                    else f"{shown(kind)} is wrong: must be one of {', '.join(KINDS)}"
                )
            self._problem(join_key(path, "type"), message)
            return
        own = settings_of(KINDS[kind].Options)
        self._check_name("port", name, path)
        before = len(self.problems)
        values = check_table(table, {**PORT_SETTINGS, **own}, path, self.problems)
        if len(self.problems) > before:
            return
        try:
            KINDS[kind].Options(**{key: values[key] for key in own})
        except ValueError as error:
            self._problem(path, str(error))
        options = {key: setting.adapter.dump_python(values[key], mode="json") for key, setting in own.items()}
        vlan = vlan_config(values, path, self.problems)
        self.ports[name] = PortSpec(
            bridge, name, kind, options, vlan, values["mtu"], values["ofport"], policing(values), values["protected"]
        )

    def _check_name(self, what: str, name: str, path: str) -> None:
        if name in ("", ".", "..") or any(char in "/:" or char.isspace() or not char.isprintable() for char in name):
            self._problem(path, f"{name!r} is not a {what} name: it may hold no space, '/' or ':', nor be '.' or '..'")

    def _check_netdevs(self) -> None:
        """Net devices have names the kernel can take, and none belongs to two ports."""
        owners: dict[str, str] = {}
        for port in self.ports.values():
            path, netdev = self._netdev(port)
            if netdev is None:
                continue
            size = len(netdev.encode())
            if size > _IFNAME_BYTES:
                self._problem(path, f"{netdev!r} is too long for a net device: {size} bytes, at most {_IFNAME_BYTES}")
            elif netdev in ("", ".", "..") or any(char in "/:" or char.isspace() for char in netdev):
                self._problem(path, f"{netdev!r} cannot name a net device: no space, '/' or ':', nor '.' or '..'")
            elif netdev in owners:
                self._problem(path, f"net device {netdev!r} is already used by {owners[netdev]}")
            else:
                owners[netdev] = self.paths[port.name]

    def _netdev(self, port: PortSpec) -> tuple[str, str | None]:
        """The net device that a port claims, if any, and the key which says so."""
        for key in _NETDEV_OPTIONS:
            if port.options.get(key) is not None:
                return join_key(self.paths[port.name], key), port.options[key]
        return self.paths[port.name], port.name if KINDS[port.kind].makes_netdev else None

    def _check_flows(self) -> None:
        for bridge in self.bridges.values():
            # Which numbers ports without ``ofport`` get does not matter for whether a flow can be read.
            ports = [port for port in self.ports.values() if port.bridge == bridge.name]
            names = {port.name: port.ofport or number for number, port in enumerate(ports, 1)}
            for number, text in enumerate(bridge.flows):
                try:
                    parse_flow(text, names)
                except (TextError, OpenFlowError) as error:
                    self._problem(f"{join_key('bridge', bridge.name)}.flows[{number}]", str(error))

    def _check_peers(self) -> None:
        for port in self.ports.values():
            peer = port.options.get("peer")
            if not peer:
                continue
            path = join_key(self.paths[port.name], "peer")
            other = self.ports.get(peer)
            if peer == port.name:
                self._problem(path, f"{peer!r} is wrong: a port cannot be its own peer")
            elif other is None and peer not in self.paths:
                self._problem(path, f"{peer!r} is wrong: no port of that name in this file")
            elif other is not None and other.kind != port.kind:
                self._problem(path, f"{peer!r} is wrong: {self.paths[peer]} is a {other.kind} port, not {port.kind}")
            elif other is not None and other.options.get("peer") != port.name:
                found = other.options.get("peer")
                self._problem(
                    path, f"{peer!r} is wrong: {self.paths[peer]} has peer = {shown(found)}, not {shown(port.name)}"
                )
