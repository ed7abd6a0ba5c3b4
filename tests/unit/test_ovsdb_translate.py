"""Rows of the Open_vSwitch database as desired state, and that what is wrong concerns its row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ovsdb import publish as published
from penstock.ovsdb.devices import Detail, Device
from penstock.ovsdb.publish import applied, publish
from penstock.ovsdb.rows import BridgeRow, ControllerRow, FlowTableRow, InterfaceRow, PortRow, Snapshot, SslRow
from penstock.ovsdb.translate import Translator, Wanted, type_of
from penstock.ports.spec import PortSpec, PortState, TableSpec, VlanConfig
from penstock.switch.settings import EngineSettings

RUNDIR = Path("/run/there")
ROOT = UUID(int=1)


def interface(name: str, kind: str = "", **columns: Any) -> InterfaceRow:
    return InterfaceRow(uuid4(), name, kind, **columns)


def port(row: InterfaceRow, **columns: Any) -> PortRow:
    return PortRow(uuid4(), row.name, (row,), **columns)


def snapshot(*ports: PortRow, **columns: Any) -> Snapshot:
    return Snapshot(ROOT, 7, (BridgeRow(uuid4(), "br0", ports, **columns),))


def translate(given: Snapshot) -> Wanted:
    return Translator(RUNDIR, EngineSettings()).translate(given)


TYPES = {
    "": ({}, "packet", {"netdev": "p"}),
    "system": ({}, "packet", {"netdev": "p"}),
    "internal": ({}, "internal", {}),
    "tap": ({}, "tap", {}),
    "dummy": ({}, "dummy", {}),
    "patch": ({"peer": "q"}, "patch", {"peer": "q"}),
    "dpdkvhostuser": ({}, "vhost-user", {"path": "/run/there/p", "mode": "server"}),
    "dpdkvhostuserclient": ({"vhost-server-path": "/run/vm"}, "vhost-user", {"path": "/run/vm", "mode": "client"}),
    "vxlan": (
        {"remote_ip": "10.0.0.2", "key": "5001", "csum": "true", "dst_port": "8472", "tos": "0x10", "exts": "gbp"},
        "vxlan",
        {"remote_ip": "10.0.0.2", "key": 5001, "csum": True, "dst_port": 8472, "tos": 16, "exts": ["gbp"]},
    ),
    "geneve": ({"remote_ip": "flow", "key": "flow"}, "geneve", {"remote_ip": "flow", "key": "flow"}),
    "gre": ({"remote_ip": "fd00::2", "ttl": "inherit"}, "gre", {"remote_ip": "fd00::2", "ttl": "inherit"}),
}


@pytest.mark.parametrize("kind", list(TYPES))
def test_types_are_kinds_of_port(kind: str) -> None:
    given, expected, options = TYPES[kind]
    wanted = translate(snapshot(port(interface("p", kind, options=given))))
    assert wanted.interface_errors == {}
    made = wanted.state.ports["p"]
    assert (made.bridge, made.kind) == ("br0", expected)
    assert type_of(made) == (kind or "system")
    assert made.options.items() >= options.items()


WRONG = {
    "nosuch": ({}, "unknown type 'nosuch'"),
    "pcap": ({}, "unknown type 'pcap'"),
    "patch": ({}, "options:peer is missing"),
    "vxlan": ({"remote_ip": "10.0.0.300"}, "options:remote_ip"),
    "geneve": ({"remote_ip": "10.0.0.2", "key": "16777216"}, "options:key"),
    "dpdkvhostuserclient": ({}, "options:vhost-server-path is missing"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_what_is_wrong_concerns_its_row_alone(kind: str) -> None:
    options, text = WRONG[kind]
    wanted = translate(snapshot(port(interface("p", kind, options=options)), port(interface("q", "tap"))))
    assert text in wanted.interface_errors["p"]
    assert list(wanted.interface_errors) == ["p"]
    assert list(wanted.state.ports) == ["q"]


VLANS = (
    ({}, VlanConfig()),
    ({"tag": 7}, VlanConfig("access", 7)),
    ({"tag": 0}, VlanConfig("access", 0)),
    ({"tag": 7, "trunks": (8, 9)}, VlanConfig("access", 7)),
    ({"trunks": (9, 8, 0)}, VlanConfig("trunk", None, (0, 8, 9))),
    ({"tag": 7, "vlan_mode": "trunk", "trunks": (8,)}, VlanConfig("trunk", None, (8,))),
    ({"tag": 7, "vlan_mode": "native-untagged", "trunks": (8,)}, VlanConfig("native-untagged", 7, (8,))),
    ({"vlan_mode": "native-tagged"}, VlanConfig("native-tagged", 0)),
    ({"tag": 7, "vlan_mode": "dot1q-tunnel", "trunks": (8,)}, VlanConfig("dot1q-tunnel", 7)),
    (
        {
            "tag": 7,
            "vlan_mode": "dot1q-tunnel",
            "cvlans": (9, 8, 4095),
            "other_config": {"qinq-ethtype": "802.1q", "priority-tags": "true"},
        },
        VlanConfig("dot1q-tunnel", 7, (), (8, 9), "802.1q", True),
    ),
    (
        {"tag": 7, "cvlans": (9,), "other_config": {"qinq-ethtype": "nosuch", "priority-tags": "always"}},
        VlanConfig("access", 7, priority_tags=True),
    ),
)


@pytest.mark.parametrize(("columns", "expected"), VLANS)
def test_vlans(columns: dict[str, Any], expected: VlanConfig) -> None:
    assert translate(snapshot(port(interface("p", "tap"), **columns))).state.ports["p"].vlan == expected


def test_wrong_ports_are_told() -> None:
    tunnel = port(interface("p", "tap"), vlan_mode="dot1q-tunnel")
    unknown = port(interface("q", "tap"), vlan_mode="nosuch")
    bond = PortRow(uuid4(), "bond", (interface("a"), interface("b")))
    errors = translate(snapshot(tunnel, unknown, bond)).interface_errors
    assert errors.pop("q").startswith("port 'q': unknown vlan_mode 'nosuch'")
    assert errors == {
        "p": "port 'p': vlan_mode dot1q-tunnel needs a tag from 1 to 4094: the customer's VLAN",
        "a": "port 'bond': bonds are not built yet",
        "b": "port 'bond': bonds are not built yet",
    }


def test_bridges() -> None:
    controllers = (ControllerRow(uuid4(), "tcp:127.0.0.1:6653", max_backoff=500, inactivity_probe=30_000),)
    config = {
        "mac-aging-time": "60",
        "mac-table-size": "1000",
        "datapath-id": "00000000000000ab",
        "forward-bpdu": "true",
    }
    wanted = translate(
        snapshot(
            controllers=controllers, other_config=config, protocols=("OpenFlow13", "OpenFlow15"), fail_mode="secure"
        )
    )
    assert wanted.bridge_errors == {}
    made = wanted.state.bridges["br0"]
    assert (made.controllers, made.protocols, made.fail_mode) == (("tcp:127.0.0.1:6653",), ("OpenFlow13",), "secure")
    assert (made.mac_ageing, made.mac_table_size, made.datapath_id) == (60, 1000, "00000000000000ab")
    assert (made.inactivity_probe, made.max_backoff) == (30, 1)
    tables = (FlowTableRow(3, 100, "evict", ("in_port[]",)), FlowTableRow(4))
    own = port(interface("br0", "internal"))
    given = replace(
        snapshot(own, tables=tables, other_config={"hwaddr": "02:00:00:00:00:AB"}), ssl=SslRow("/k", "/c", "/a")
    )
    wanted = translate(given)
    made = wanted.state.bridges["br0"]
    assert made.tables == (TableSpec(3, 100, "evict", ("in_port",)), TableSpec(4))
    assert (made.private_key, made.certificate, made.ca_cert) == ("/k", "/c", "/a")
    assert wanted.state.ports["br0"].options["mac"] == "02:00:00:00:00:ab"
    wrong = translate(snapshot(own, other_config={"hwaddr": "03:00:00:00:00:ab"}))
    assert "hwaddr '03:00:00:00:00:ab'" in wrong.interface_errors["br0"]
    tables = (FlowTableRow(3, 0), FlowTableRow(254), FlowTableRow(4, 5), FlowTableRow(5, None, None, ("nosuch",)))
    wrong = translate(snapshot(tables=tables))
    assert wrong.state.bridges["br0"].tables == (TableSpec(4, 5),)
    for text in ("flow_tables.3.flow_limit", "flow_tables.254", "unknown match field 'nosuch'"):
        assert text in wrong.bridge_errors["br0"]
    wrong = translate(snapshot(other_config={"mac-aging-time": "soon"}))
    assert "mac_ageing" in wrong.bridge_errors["br0"]
    assert wrong.state.bridges["br0"].mac_ageing == 300


def test_numbers_of_ports() -> None:
    """One that is asked for comes before one that a port had when the switch was started; none is given twice."""
    rows = {
        "asks": interface("asks", "tap", ofport_request=5, ofport=9),
        "had": interface("had", "tap", ofport=6),
        "second": interface("second", "tap", ofport_request=5, ofport=7),
        "local": interface("local", "tap", ofport=65534),
        "new": interface("new", "tap"),
    }
    translator = Translator(RUNDIR, EngineSettings())
    given = snapshot(*map(port, rows.values()))
    expected = {"asks": 5, "had": 6, "second": 7, "local": None, "new": None}
    assert {name: made.ofport for name, made in translator.translate(given).state.ports.items()} == expected
    later = snapshot(*(port(replace(row, ofport=row.ofport or 30)) for row in rows.values()))
    assert {name: made.ofport for name, made in translator.translate(later).state.ports.items()} == expected


def test_a_number_that_another_port_has_and_keeps_is_not_given() -> None:
    """So Open vSwitch does it, rather than refuse the port; the number is there to be had when the other port goes."""
    holder = interface("holder", "tap", ofport=5)
    mover = interface("mover", "tap", ofport=6, ofport_request=9)
    stays = interface("stays", "tap", ofport=7, ofport_request=5)
    first, second = (interface(f"asks{number}", "tap", ofport_request=number) for number in (5, 6))
    third = interface("asks7", "tap", ofport_request=7)
    translator = Translator(RUNDIR, EngineSettings())
    translator.translate(snapshot())
    ports = translator.translate(snapshot(*map(port, (first, second, third, holder, mover, stays)))).state.ports
    assert {name: made.ofport for name, made in ports.items()} == {
        "asks5": None, "asks6": 6, "asks7": None, "holder": None, "mover": 9, "stays": None,
    }  # fmt: skip
    assert translator.translate(snapshot(port(first))).state.ports["asks5"].ofport == 5


@given(st.sampled_from([*TYPES, "nosuch"]), st.dictionaries(st.text(max_size=9), st.text(max_size=20)), st.data())
def test_any_options_are_taken_or_refused_with_a_text(kind: str, options: dict[str, str], data: st.DataObject) -> None:
    known = [*TYPES["vxlan"][0], "peer", "vhost-server-path", "in_key", "local_ip", "vnis", "remotes"]
    options |= data.draw(st.dictionaries(st.sampled_from(known), st.text(max_size=20)))
    row = interface("p", kind, options=options, mac=data.draw(st.none() | st.text(max_size=18)))
    wanted = translate(snapshot(port(row, tag=data.draw(st.none() | st.integers(0, 4095)))))
    assert ("p" in wanted.state.ports) != bool(wanted.interface_errors.get("p"))


def test_what_has_become_of_rows() -> None:
    up, lost = interface("up", "tap"), interface("lost", "tap")
    given = snapshot(port(up), port(lost))
    spec = PortSpec("br0", "up", "tap")
    state = PortState(spec, 3, 0xFFFFFFFE, "up", "", "02:00:00:00:00:01", 1500, "up", 1, ())
    device = Device(True, True, 10_000_000, "full", {"driver_name": "tun"})
    details = {"up": Detail(9, device, device.status)}
    cells = publish(
        given, {"up": state}, {"lost": "no such"}, {"up": {"rx_packets": 4, "other": 1}}, {"br0": 0xAB}, details
    )
    assert cells["Interface", up.uuid, "ifindex"] == [9]
    assert cells["Interface", up.uuid, "link_speed"] == [10_000_000]
    assert cells["Interface", up.uuid, "duplex"] == ["full"]
    assert cells["Interface", up.uuid, "status"] == {"driver_name": "tun"}
    assert cells["Interface", up.uuid, "admin_state"] == ["up"]
    assert cells["Interface", lost.uuid, "status"] == {}
    assert {column for _, row, column in cells if row == lost.uuid} == {
        column for _, row, column in cells if row == up.uuid
    }
    assert cells["Interface", up.uuid, "ofport"] == [65534]
    assert cells["Interface", up.uuid, "mac_in_use"] == ["02:00:00:00:00:01"]
    assert cells["Interface", up.uuid, "statistics"] == {"rx_packets": 4}
    assert cells["Interface", up.uuid, "error"] == []
    assert cells["Interface", lost.uuid, "ofport"] == [-1]
    assert cells["Interface", lost.uuid, "error"] == ["no such"]
    assert cells["Bridge", given.bridges[0].uuid, "datapath_id"] == ["00000000000000ab"]
    assert applied(given) == {("Open_vSwitch", ROOT, "cur_cfg"): 7}


def test_what_is_not_built_is_said_of_each_row() -> None:
    row = port(interface("p", "tap", unbuilt=("cfm_mpid",)), unbuilt=("qos",))
    controllers = tuple(
        ControllerRow(uuid4(), f"tcp:10.0.0.{number}", connection_mode=mode)
        for number, mode in enumerate((None, "in-band", "out-of-band"))
    )
    given = snapshot(row, unbuilt=("mirrors",), controllers=controllers)
    assert translate(replace(given, ssl=SslRow(bootstrap=True))).unbuilt == (
        "SSL: bootstrap_ca_cert is not built yet: the file that ca_cert names has to be there",
        "bridge 'br0': mirrors is not built yet",
        "bridge 'br0': controller 'tcp:10.0.0.1' is out-of-band: in-band is not built yet",
        "port 'p': qos is not built yet",
        "interface 'p': cfm_mpid is not built yet",
    )


def test_controllers_are_told_of() -> None:
    one, two, three = (ControllerRow(uuid4(), text) for text in ("tcp:127.0.0.1", "tcp:127.0.0.2", "ptcp:"))
    rows = [
        {"target": one.target, "state": "connected", "seconds": 4.6, "error": "", "role": "master", "passive": False},
        {
            "target": two.target,
            "state": "disconnected",
            "seconds": 9.0,
            "error": "refused",
            "role": "",
            "passive": False,
        },
        {"target": three.target, "state": "connected", "seconds": 1.0, "error": "", "role": "", "passive": True},
    ]
    cells = published.controllers(snapshot(controllers=(one, two, three)), {"br0": rows})
    assert [cells["Controller", each.uuid, "is_connected"] for each in (one, two, three)] == [True, False, False]
    assert [cells["Controller", each.uuid, "role"] for each in (one, two)] == [["master"], []]
    assert cells["Controller", one.uuid, "status"] == {"state": "ACTIVE", "sec_since_connect": "4"}
    refused = {"state": "BACKOFF", "sec_since_disconnect": "9", "last_error": "refused"}
    assert cells["Controller", two.uuid, "status"] == refused
    assert cells["Controller", three.uuid, "status"] == {}
