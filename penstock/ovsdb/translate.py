"""From rows of the database to desired state: what of them is meant is built, what is not gets a text.

A value that is wrong concerns its row alone: the rest of the database is followed (ovs-vswitchd.conf.db(5)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

from penstock.config.errors import Problem
from penstock.config.schema import Setting, check_table, settings_of
from penstock.config.tables import flow_table
from penstock.ovsdb.rows import BridgeRow, InterfaceRow, PortRow, Snapshot, SslRow
from penstock.ports import KINDS
from penstock.ports.spec import POLICING_MAX, BridgeSpec, Policing, PortSpec, TableSpec, VlanConfig, VlanMode
from penstock.switch.errors import unknown
from penstock.switch.model import DesiredState
from penstock.switch.settings import EngineSettings

VLAN_MAX = 4094
OFPORT_MAX = 0xFEFF
PROTOCOLS = ("OpenFlow10", "OpenFlow13")
MILLISECONDS = 1000
MODES = get_args(VlanMode)
PRIORITY_TAGS = ("if-nonzero", "true", "always")  # other_config:priority-tags of a port; all else is as never
Options = tuple[str, dict[str, Any]]  # a kind of port, and its options
_BRIDGE_SETTINGS = {
    "mac-aging-time": "mac_ageing",
    "mac-table-size": "mac_table_size",
    "datapath-id": "datapath_id",
    "forward-bpdu": "forward_bpdu",
}


@dataclass
class Wanted:
    """What the database asks for, and the texts for what cannot be: by the name of the bridge or the interface."""

    state: DesiredState
    bridge_errors: dict[str, str] = field(default_factory=dict)
    interface_errors: dict[str, str] = field(default_factory=dict)
    unbuilt: tuple[str, ...] = ()  # a sentence for each column that asks for what is not built yet


class Translator:
    """Makes desired state of one snapshot after the other.

    The numbers that ports had when the switch was started are theirs again, if they ask for no others. A port does not
    get the number that it asks for while another one that may keep it has it; it gets some other then.
    """

    def __init__(self, rundir: Path, engine: EngineSettings) -> None:
        self._rundir, self._engine = rundir, engine
        self._numbers: dict[str, int | None] | None = None
        self._known: dict[UUID, tuple[InterfaceRow, Options | ValueError]] = {}

    def translate(self, snapshot: Snapshot) -> Wanted:
        """The desired state that a database means."""
        wanted = Wanted(DesiredState(engine=self._engine))
        rows = [row for bridge in snapshot.bridges for port in bridge.ports for row in port.interfaces]
        if self._numbers is None:
            self._numbers = {row.name: row.ofport for row in rows}
        names = {row.name for row in rows}
        self._numbers = {name: number for name, number in self._numbers.items() if name in names}
        wanted.unbuilt = tuple(_unbuilt(snapshot))
        for bridge in snapshot.bridges:
            wanted.state.bridges[bridge.name] = _bridge(bridge, snapshot.ssl, wanted.bridge_errors)
            taken: set[int] = set()
            holders = _holders(bridge)
            for port in bridge.ports:
                self._port(bridge, port, taken, holders, wanted)
        self._known = {row.uuid: self._known[row.uuid] for row in rows if row.uuid in self._known}
        return wanted

    def _port(
        self, bridge: BridgeRow, row: PortRow, taken: set[int], holders: Mapping[int, str], wanted: Wanted
    ) -> None:
        if len(row.interfaces) != 1:
            for interface in row.interfaces:
                wanted.interface_errors[interface.name] = f"port '{row.name}': bonds are not built yet"
            return
        (interface,) = row.interfaces
        try:
            vlan = _vlan(row)
            kind, options = self._options(interface)
            if interface.name == bridge.name and kind == "internal" and "hwaddr" in bridge.other_config:
                options = options | {"mac": _mac(bridge)}
        except ValueError as error:
            wanted.interface_errors[interface.name] = str(error)
            return
        assert self._numbers is not None
        asked = (interface.ofport_request, self._numbers.get(interface.name))
        free = (each for each in asked if each is not None and _is_free(each, taken))
        ofport = next((each for each in free if holders.get(each, interface.name) == interface.name), None)
        if ofport is not None:
            taken.add(ofport)
        wanted.state.ports[interface.name] = PortSpec(
            bridge.name, interface.name, kind, options, vlan, interface.mtu_request, ofport,
            Policing(*(min(number, POLICING_MAX) for number in interface.policing)), row.protected,
        )  # fmt: skip

    def _options(self, row: InterfaceRow) -> Options:
        """What ``options_of`` makes of a row, which is asked once for each: there may be thousands."""
        known = self._known.get(row.uuid)
        if known is None or replace(known[0], ofport=row.ofport) != row:
            try:
                known = row, options_of(row, self._rundir)
            except ValueError as error:
                known = row, error
            self._known[row.uuid] = known
        if isinstance(known[1], ValueError):
            raise known[1]
        return known[1]


def _holders(bridge: BridgeRow) -> dict[int, str]:
    """Which interfaces have OpenFlow numbers that they keep, as they ask for no other or for one that is kept too."""
    rows = [row for port in bridge.ports for row in port.interfaces]
    holders: dict[int, str] = {}
    before = -1
    while len(holders) != before:
        before = len(holders)
        for row in rows:
            asked = row.ofport_request
            if row.ofport is not None and (asked is None or asked == row.ofport or asked in holders):
                holders.setdefault(row.ofport, row.name)
    return holders


def _unbuilt(snapshot: Snapshot) -> Iterator[str]:
    """A sentence for each column of a row that asks for what is not built yet."""
    if snapshot.ssl is not None and snapshot.ssl.bootstrap:
        yield "SSL: bootstrap_ca_cert is not built yet: the file that ca_cert names has to be there"
    for bridge in snapshot.bridges:
        yield from (f"bridge '{bridge.name}': {column} is not built yet" for column in bridge.unbuilt)
        for controller in bridge.controllers:
            if controller.connection_mode == "in-band":
                target = controller.target
                yield f"bridge '{bridge.name}': controller '{target}' is out-of-band: in-band is not built yet"
        for port in bridge.ports:
            yield from (f"port '{port.name}': {column} is not built yet" for column in port.unbuilt)
            for row in port.interfaces:
                yield from (f"interface '{row.name}': {column} is not built yet" for column in row.unbuilt)


def _mac(bridge: BridgeRow) -> str:
    """other_config:hwaddr, which is the MAC address of the bridge's own port. Raises ValueError."""
    text = bridge.other_config["hwaddr"]
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text) or int(text[:2], 16) & 1:
        raise ValueError(f"bridge '{bridge.name}': other_config:hwaddr '{text}' is no MAC address of one station")
    return text.lower()


def _tables(row: BridgeRow, problems: list[Problem]) -> tuple[TableSpec, ...]:
    """What is set of a bridge's flow tables, without those of which something is wrong."""
    found = []
    for each in row.tables:
        groups = [group.removesuffix("[]") for group in each.groups]  # all of a field, as Open vSwitch may write it
        given = {"flow_limit": each.flow_limit, "overflow_policy": each.overflow_policy, "groups": groups}
        values = {key: value for key, value in given.items() if value is not None}
        table = flow_table(str(each.number), f"flow_tables.{each.number}", values, problems)
        found += [table] if table is not None else []
    return tuple(found)


def _bridge(row: BridgeRow, ssl: SslRow | None, errors: dict[str, str]) -> BridgeSpec:
    asked: dict[str, Any] = {}
    if ssl is not None:
        asked = {"private_key": ssl.private_key, "certificate": ssl.certificate, "ca_cert": ssl.ca_cert}
    if row.controllers:
        asked["controllers"] = [controller.target for controller in row.controllers]
        first = row.controllers[0]
        times = {"inactivity_probe": first.inactivity_probe, "max_backoff": first.max_backoff}
        asked |= {key: _seconds(value) for key, value in times.items() if value is not None}
        limits = {"controller_rate_limit": first.rate_limit, "controller_burst_limit": first.burst_limit}
        asked |= {key: value for key, value in limits.items() if value is not None}
    if row.protocols:
        asked["protocols"] = [each for each in PROTOCOLS if each in row.protocols]
    asked["flood_vlans"] = _vlans(row.flood_vlans)
    if row.fail_mode is not None:
        asked["fail_mode"] = row.fail_mode
    texts = {_BRIDGE_SETTINGS[key]: text for key, text in row.other_config.items() if key in _BRIDGE_SETTINGS}
    problems: list[Problem] = []
    tables = _tables(row, problems)
    values = check_table(asked | _from_text(texts, settings_of(BridgeSpec)), settings_of(BridgeSpec), "", problems)
    if problems:
        errors[row.name] = "; ".join(map(str, problems))
    return BridgeSpec(name=row.name, **values, tables=tables)


def _seconds(milliseconds: int) -> int:
    """Whole seconds, at least one of what is not nothing."""
    return max(1, milliseconds // MILLISECONDS) if milliseconds else 0


def _is_free(ofport: int, taken: set[int]) -> bool:
    return 1 <= ofport <= OFPORT_MAX and ofport not in taken


def _vlan(row: PortRow) -> VlanConfig:
    """The columns that say how a port takes part in VLANs. Raises ValueError."""
    if row.vlan_mode is not None and row.vlan_mode not in MODES:
        raise ValueError(f"port '{row.name}': {unknown('vlan_mode', row.vlan_mode, MODES)}")
    mode = row.vlan_mode or ("access" if row.tag is not None else "trunk")
    if mode == "dot1q-tunnel" and not row.tag:
        raise ValueError(
            f"port '{row.name}': vlan_mode dot1q-tunnel needs a tag from 1 to {VLAN_MAX}: the customer's VLAN"
        )
    tag = None if mode == "trunk" else row.tag or 0
    trunks = () if mode in ("access", "dot1q-tunnel") else _vlans(row.trunks)
    cvlans = _vlans(row.cvlans) if mode == "dot1q-tunnel" else ()
    service = "802.1q" if row.other_config.get("qinq-ethtype") == "802.1q" else "802.1ad"
    priority_tags = row.other_config.get("priority-tags") in PRIORITY_TAGS
    return VlanConfig(mode, tag, trunks, cvlans, service, priority_tags)  # type: ignore[arg-type]


def _vlans(numbers: Iterable[int]) -> tuple[int, ...]:
    """Those of some numbers that are VLANs."""
    return tuple(sorted({vlan for vlan in numbers if 0 <= vlan <= VLAN_MAX}))


def options_of(row: InterfaceRow, rundir: Path) -> Options:
    """The kind of port that an interface is, and its options. Raises ValueError."""
    if (row.type or "system") not in TYPES:
        raise ValueError(f"interface '{row.name}': {unknown('type', row.type, TYPES)}")
    kind, given = TYPES[row.type or "system"]
    settings = settings_of(KINDS[kind].Options)
    problems: list[Problem] = []
    values = check_table(_from_text(given(row, rundir), settings), settings, "options", problems)
    if problems:
        texts = (f"{each.path.replace('.', ':', 1)} {each.message}" for each in problems)
        raise ValueError(f"interface '{row.name}': {'; '.join(texts)}")
    try:
        KINDS[kind].Options(**values)
    except ValueError as error:
        raise ValueError(f"interface '{row.name}': {error}") from error
    return kind, {key: settings[key].adapter.dump_python(value, mode="json") for key, value in values.items()}


def _as_they_are(row: InterfaceRow, _rundir: Path) -> dict[str, str]:
    return row.options


def _nothing(_row: InterfaceRow, _rundir: Path) -> dict[str, str]:
    return {}


def _system(row: InterfaceRow, _rundir: Path) -> dict[str, str]:
    return {"netdev": row.name}


def _device(row: InterfaceRow, _rundir: Path) -> dict[str, str]:
    return {"mac": row.mac} if row.mac is not None else {}


def _vhost_server(row: InterfaceRow, rundir: Path) -> dict[str, str]:
    return {"path": str(rundir / row.name), "mode": "server"}


def _vhost_client(row: InterfaceRow, _rundir: Path) -> dict[str, str]:
    path = row.options.get("vhost-server-path")
    if path is None:
        raise ValueError(f"interface '{row.name}': options:vhost-server-path is missing: the socket of the VM")
    return {"path": path, "mode": "client"}


# The types of interface: the kind of port that each is, and what of a row becomes its options. "" is system.
TYPES: dict[str, tuple[str, Callable[[InterfaceRow, Path], dict[str, str]]]] = {
    "system": ("packet", _system),
    "internal": ("internal", _device),
    "tap": ("tap", _device),
    "patch": ("patch", _as_they_are),
    "vxlan": ("vxlan", _as_they_are),
    "geneve": ("geneve", _as_they_are),
    "gre": ("gre", _as_they_are),
    "dpdkvhostuser": ("vhost-user", _vhost_server),
    "dpdkvhostuserclient": ("vhost-user", _vhost_client),
    "dummy": ("dummy", _nothing),
}


def type_of(spec: PortSpec) -> str:
    """The type of interface that a port is, as the database calls it."""
    if spec.kind == "vhost-user":
        return "dpdkvhostuser" if spec.options.get("mode") == "server" else "dpdkvhostuserclient"
    return next((name for name, (kind, _) in TYPES.items() if kind == spec.kind), spec.kind)


def _from_text(texts: Mapping[str, str], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Values of settings as the database has them, which are texts; keys that are no settings are left out."""
    found = {}
    for key, text in texts.items():
        setting = settings.get(key)
        if setting is not None:
            found[key] = next((each for each in _readings(text) if _fits(setting, each)), text)
    return found


def _fits(setting: Setting, value: Any) -> bool:
    problems: list[Problem] = []
    setting.check("", value, problems)
    return not problems


def _readings(text: str) -> Iterator[Any]:
    """What a text may stand for."""
    yield text
    if text.lower() in ("true", "false"):
        yield text.lower() == "true"
    try:
        yield int(text, 0)
    except ValueError:
        yield text.split(",")
