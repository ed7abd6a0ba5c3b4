"""The TOML file: what it gives when it is right, and what is said of it when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.document import reference
from penstock.config.engine_table import load_engine_settings
from penstock.config.errors import ConfigError
from penstock.config.load import load
from penstock.ports import KINDS
from penstock.ports.spec import BridgeSpec, TableSpec, VlanConfig
from penstock.switch.model import DesiredState
from penstock.switch.settings import EngineSettings

GOOD = """
[engine]
poll = "busy"

[bridge.br0]
mac_ageing = 60

[bridge.br0.port.vm1]
type = "tap"

[bridge.br0.port.eth1]
type = "packet"
netdev = "veth0"
tag = 10

[bridge.br0.port.up]
type = "patch"
peer = "down"
trunks = [30, 20, 20]
mtu = 1400

[bridge.br1.port.down]
type = "patch"
peer = "up"
vlan_mode = "native-untagged"
tag = 5
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said of a file, without the file's name."""
    file = tmp_path / "penstock.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def port(text: str, kind: str = "dummy") -> str:
    return f'[bridge.br0.port.vm1]\ntype = "{kind}"\n{text}\n'


def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(GOOD)
    desired = load(file)
    assert desired.engine == EngineSettings(poll="busy")
    assert desired.bridges == {"br0": BridgeSpec("br0", mac_ageing=60), "br1": BridgeSpec("br1")}
    assert list(desired.ports) == ["vm1", "eth1", "up", "down"]
    assert desired.ports["eth1"].bridge == "br0"
    assert desired.ports["eth1"].kind == "packet"
    assert desired.ports["eth1"].options["netdev"] == "veth0"
    vlans = {name: spec.vlan for name, spec in desired.ports.items()}
    assert vlans == {
        "vm1": VlanConfig("trunk"),
        "eth1": VlanConfig("access", 10),
        "up": VlanConfig("trunk", None, (20, 30)),
        "down": VlanConfig("native-untagged", 5),
    }
    assert desired.ports["up"].mtu == 1400
    assert DesiredState.from_json(desired.to_json()) == desired


def test_options_are_filled_with_the_kind_s_defaults(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(port(""))
    assert load(file).ports["vm1"].options == {"keep": False, "offloads": 0}


def test_flow_tables(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text('[bridge.br0.table.3]\nflow_limit = 9\noverflow_policy = "evict"\ngroups = ["in_port"]\n')
    desired = load(file)
    assert desired.bridges["br0"].tables == (TableSpec(3, 9, "evict", ("in_port",)),)
    assert DesiredState.from_json(desired.to_json()) == desired


def test_an_empty_file_is_an_empty_switch(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("")
    assert load(tmp_path / "penstock.toml") == DesiredState()


CASES = {
    "unknown top table": (
        "[bridges.br0]",
        "bridges: unknown table 'bridges'; did you mean bridge? (known: bridge, engine)",
    ),
    "no flow table": (
        "[bridge.br0.table.254]",
        "bridge.br0.table.254: '254' is no flow table: they are numbered from 0 to 253",
    ),
    "flow table's key": (
        '[bridge.br0.table.3]\noverflow_policy = "drop"',
        'bridge.br0.table.3.overflow_policy: "drop" is wrong: must be one of "refuse", "evict"',
    ),
    "flow table's field": (
        '[bridge.br0.table.3]\ngroups = ["inport"]',
        re.compile(r"bridge\.br0\.table\.3\.groups: unknown match field 'inport'; did you mean in_port\?.*"),
    ),
    "unknown engine key": (
        "[engine]\nworker = 1",
        "engine.worker: unknown key 'worker'; did you mean workers? (known: workers, cpus, poll, huge_pages, spare)",
    ),
    "unknown bridge key": (
        "[bridge.br0]\nmac_aging = 5",
        re.compile(
            r"bridge\.br0\.mac_aging: unknown key 'mac_aging'; did you mean mac_ageing\? "
            r"\(known: (\w+, )*mac_ageing, mac_table_size, (\w+, )*port(, \w+)*\)"
        ),
    ),
    "a flow that says nothing": (
        "[bridge.br0]\nflows = ['in_port=1,actions=fly']",
        re.compile(r"bridge\.br0\.flows\[0\]: 'fly' is no action; known are .*"),
    ),
    "a controller that is none": (
        "[bridge.br0]\ncontrollers = ['127.0.0.1']",
        'bridge.br0.controllers[0]: "127.0.0.1" is wrong: must be a string that names a controller, '
        "as in tcp:127.0.0.1:6653 or ptcp:6653",
    ),
    "unknown port key": (
        port("tags = 5"),
        "bridge.br0.port.vm1.tags: unknown key 'tags'; did you mean tag? "
        "(known: type, vlan_mode, tag, trunks, cvlans, qinq_ethtype, priority_tags, mtu, ofport, protected, "
        "ingress_policing_rate, "
        "ingress_policing_burst, "
        "ingress_policing_kpkts_rate, ingress_policing_kpkts_burst, keep, offloads)",
    ),
    "VLAN too large": (
        port("tag = 5000"),
        "bridge.br0.port.vm1.tag: 5000 is wrong: must be an integer from 1 to 4094",
    ),
    "VLAN 0": (port("tag = 0"), "bridge.br0.port.vm1.tag: 0 is wrong: must be an integer from 1 to 4094"),
    "VLAN as text": (port('tag = "5"'), 'bridge.br0.port.vm1.tag: "5" is wrong: must be an integer from 1 to 4094'),
    "VLAN as truth": (port("tag = true"), "bridge.br0.port.vm1.tag: true is wrong: must be an integer from 1 to 4094"),
    "VLAN in a list": (
        port("trunks = [1, 4095]"),
        "bridge.br0.port.vm1.trunks[1]: 4095 is wrong: must be an integer from 0 to 4094",
    ),
    "list expected": (
        port("trunks = 7"),
        "bridge.br0.port.vm1.trunks: 7 is wrong: must be a list, each item an integer from 0 to 4094",
    ),
    "unknown mode": (
        port('vlan_mode = "hybrid"'),
        'bridge.br0.port.vm1.vlan_mode: "hybrid" is wrong: '
        'must be one of "access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel"',
    ),
    "unknown type": (
        port("", kind="tup"),
        f"bridge.br0.port.vm1.type: unknown type 'tup'; did you mean tap? (known: {', '.join(KINDS)})",
    ),
    "no type": (
        "[bridge.br0.port.vm1]\ntag = 1",
        f"bridge.br0.port.vm1.type: is missing: must be one of {', '.join(KINDS)}",
    ),
    "type is no text": (
        "[bridge.br0.port.vm1]\ntype = 7",
        f"bridge.br0.port.vm1.type: 7 is wrong: must be one of {', '.join(KINDS)}",
    ),
    "missing option": (
        port("", kind="patch"),
        "bridge.br0.port.vm1.peer: is missing: must be a string that is not empty",
    ),
    "one name, two bridges": (
        port("") + '[bridge.br1.port.vm1]\ntype = "tap"',
        "bridge.br1.port.vm1: the name 'vm1' is taken by bridge.br0.port.vm1; port names are unique in the switch",
    ),
    "one netdev twice": (
        port('netdev = "eth0"', "packet") + '[bridge.br1.port.b]\ntype = "packet"\nnetdev = "eth0"',
        "bridge.br1.port.b.netdev: net device 'eth0' is already used by bridge.br0.port.vm1",
    ),
    "netdev of another port's own": (
        port("", "tap") + '[bridge.br1.port.b]\ntype = "packet"\nnetdev = "vm1"',
        "bridge.br1.port.b.netdev: net device 'vm1' is already used by bridge.br0.port.vm1",
    ),
    "peer missing": (
        port('peer = "x"', "patch"),
        "bridge.br0.port.vm1.peer: 'x' is wrong: no port of that name in this file",
    ),
    "peer is itself": (
        port('peer = "vm1"', "patch"),
        "bridge.br0.port.vm1.peer: 'vm1' is wrong: a port cannot be its own peer",
    ),
    "peer of another kind": (
        port('peer = "x"', "patch") + '[bridge.br1.port.x]\ntype = "dummy"',
        "bridge.br0.port.vm1.peer: 'x' is wrong: bridge.br1.port.x is a dummy port, not patch",
    ),
    "access without tag": (
        port('vlan_mode = "access"'),
        'bridge.br0.port.vm1.tag: is missing: vlan_mode = "access" needs it (an integer from 1 to 4094)',
    ),
    "native without tag": (
        port('vlan_mode = "native-tagged"\ntrunks = [5]'),
        'bridge.br0.port.vm1.tag: is missing: vlan_mode = "native-tagged" needs it (an integer from 1 to 4094)',
    ),
    "access with trunks": (
        port('vlan_mode = "access"\ntag = 5\ntrunks = [6]'),
        "bridge.br0.port.vm1.trunks: [6] is wrong: such a port carries only its tag; "
        "leave trunks out or change vlan_mode",
    ),
    "customers' VLANs at a trunk": (
        port("trunks = [6]\ncvlans = [7]"),
        'bridge.br0.port.vm1.cvlans: [7] is wrong: only vlan_mode = "dot1q-tunnel" has VLANs of a customer',
    ),
    "customer without tag": (
        port('vlan_mode = "dot1q-tunnel"'),
        'bridge.br0.port.vm1.tag: is missing: vlan_mode = "dot1q-tunnel" needs it (an integer from 1 to 4094)',
    ),
    "trunk with tag": (
        port('vlan_mode = "trunk"\ntag = 5'),
        "bridge.br0.port.vm1.tag: 5 is wrong: a trunk port has no tag; "
        'use vlan_mode = "native-tagged" or "native-untagged" to give a trunk a native VLAN',
    ),
    "tag and trunks without mode": (
        port("tag = 5\ntrunks = [6]"),
        "bridge.br0.port.vm1.tag: 5 is wrong: tag and trunks need a vlan_mode that uses both; "
        'use vlan_mode = "native-tagged" or "native-untagged" to give a trunk a native VLAN',
    ),
    "mtu too small": (port("mtu = 60"), "bridge.br0.port.vm1.mtu: 60 is wrong: must be an integer from 68 to 65535"),
    "long TAP name": (
        '[bridge.br0.port.a-rather-long-name]\ntype = "tap"',
        "bridge.br0.port.a-rather-long-name: 'a-rather-long-name' is too long for a net device: 18 bytes, at most 15",
    ),
    "name with a space": (
        '[bridge.br0.port."a b"]\ntype = "dummy"',
        "bridge.br0.port.\"a b\": 'a b' is not a port name: it may hold no space, '/' or ':', nor be '.' or '..'",
    ),
    "name with a slash": (
        '[bridge."a/b"]',
        "bridge.\"a/b\": 'a/b' is not a bridge name: it may hold no space, '/' or ':', nor be '.' or '..'",
    ),
    "bridge is no table": ("bridge = 5", "bridge: 5 is wrong: must be a table, as in [bridge.NAME]"),
    "a bridge is no table": ("[bridge]\nbr0 = 5", "bridge.br0: 5 is wrong: must be a table"),
    "port is no table": (
        "[bridge.br0]\nport = []",
        "bridge.br0.port: [] is wrong: must be a table, as in [bridge.br0.port.NAME]",
    ),
    "CPU that is not there": (
        "[engine]\ncpus = [4000]",
        re.compile(r"engine.cpus\[0\]: 4000 is wrong: this process may run on CPUs 0.*"),
    ),
    "CPUs and workers differ": (
        "[engine]\nworkers = 2\ncpus = [0]",
        "engine.cpus: [0] is wrong: must name one CPU for each of the 2 workers",
    ),
    "no TOML": ("[bridge.br0\n", re.compile(r"is not valid TOML: .*\(at line 1, column 12\)")),
    "a key twice": (
        port("tag = 1\ntag = 2"),
        re.compile(r"is not valid TOML: Cannot overwrite a value \(at line 4, column 8\)"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    text, expected = CASES[case]
    (said,) = problems(tmp_path, text)
    assert re.fullmatch(expected, said) if isinstance(expected, re.Pattern) else said == expected


def test_patch_peers_must_name_each_other(tmp_path: Path) -> None:
    other = '[bridge.br1.port.b]\ntype = "patch"\npeer = "c"\n[bridge.br1.port.c]\ntype = "patch"\npeer = "b"'
    assert problems(tmp_path, port('peer = "b"', "patch") + other) == [
        'bridge.br0.port.vm1.peer: \'b\' is wrong: bridge.br1.port.b has peer = "c", not "vm1"'
    ]


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    text = "colour = 1\n" + port("tag = 5000\nkeep = 1") + '[bridge.br0.port.x]\ntype = "nothing"'
    assert [line.partition(": ")[0] for line in problems(tmp_path, text)] == [
        "colour",
        "bridge.br0.port.vm1.tag",
        "bridge.br0.port.vm1.keep",
        "bridge.br0.port.x.type",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 4 is 0xff"):
        load(tmp_path / "x.toml")


def test_workers_given_on_the_command_line_win(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text("[engine]\nworkers = 3\n[bridge.br0.port.x]\ntype = 'nothing that the supervisor would know'")
    assert load_engine_settings(file) == EngineSettings(workers=3)
    assert load_engine_settings(file, workers=2) == EngineSettings(workers=2)


def test_engine_arguments() -> None:
    assert EngineSettings().arguments() == ["--workers", "1", "--poll", "adaptive"]
    settings = EngineSettings(workers=2, cpus=(0, 1), poll="busy", huge_pages=False)
    assert settings.arguments() == [
        "--workers", "2", "--poll", "busy", "--cpus", "0,1", "--no-huge-pages",
    ]  # fmt: skip


toml_keys = st.sampled_from(["type", "tag", "trunks", "vlan_mode", "mtu", "netdev", "peer", "queues", "nonsense"])
toml_values = st.one_of(
    st.integers(-5, 70000).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(["access", "trunk", "native-tagged", "tap", "packet", "patch", "p0", "1979-05-27"]).map(
        lambda text: f'"{text}"'
    ),
    st.lists(st.integers(-1, 5000), max_size=3).map(str),
    st.sampled_from(["1979-05-27", "1e400", "nan", "{}", "[[1]]", "{ a = [1] }"]),
)
toml_ports = st.dictionaries(
    st.sampled_from(["p0", "p1", "p2"]), st.dictionaries(toml_keys, toml_values, max_size=5), max_size=3
)


@given(st.dictionaries(st.sampled_from(["br0", "br1"]), toml_ports, max_size=2))
def test_any_file_loads_or_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, bridges: dict[str, dict[str, dict[str, str]]]
) -> None:
    lines = [
        line
        for bridge, ports in bridges.items()
        for name, keys in ports.items()
        for line in [f"[bridge.{bridge}.port.{name}]", *(f"{key} = {value}" for key, value in keys.items())]
    ]
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("\n".join(lines))
    try:
        desired = load(file)
    except ConfigError:
        return
    assert DesiredState.from_json(desired.to_json()) == desired


def test_the_documented_reference_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    begin, end = "<!-- made by python -m penstock.config.document -->\n", "<!-- end of what is made -->"
    assert text.partition(begin)[2].partition(end)[0].strip() == reference().strip()
