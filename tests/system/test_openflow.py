"""Bridges programmed by ovs-ofctl: what it shows, what flows, groups and meters do to frames, what is refused."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.system.frames import TEST_TYPE, Wire, frame
from tests.system.lab import Lab, eventually
from tests.system.ofctl import OF13, Ofctl

NAMES = ("one", "two", "three", "four")
CONFIG = "[bridge.br0]\nfail_mode = 'secure'\n" + "\n".join(
    f'[bridge.br0.port.{name}]\ntype = "packet"\nnetdev = "{name}"\nofport = {number}'
    for number, name in enumerate(NAMES, 1)
)
IPV4 = 0x0800
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("openflow")) as lab:
        for name in NAMES:
            lab.veth(name)
        lab.start(CONFIG)
        yield lab


@pytest.fixture
def ofctl(lab: Lab) -> Iterator[Ofctl]:
    ofctl = Ofctl(lab.switch.rundir)
    yield ofctl
    ofctl("del-flows", "br0")
    ofctl(*OF13, "del-groups", "br0")
    ofctl(*OF13, "del-meters", "br0")
    for port in NAMES:
        ofctl("mod-port", "br0", port, "up")
        ofctl("mod-port", "br0", port, "flood")
        ofctl("mod-port", "br0", port, "receive")


@pytest.fixture
def wires(lab: Lab) -> Iterator[dict[str, Wire]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Wire(lab.hosts[name])) for name in NAMES}


def ipv4(payload: bytes, proto: int = 17, ports: tuple[int, int] = (1000, 2000), tos: int = 0) -> bytes:
    """An IPv4 packet with eight bytes that are UDP's header or the begin of another."""
    rest = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, tos, 20 + len(rest), 0, 0, 64, proto, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return bytes(12) + b"\x08\0" + header[:10] + struct.pack("!H", checksum) + header[12:] + rest


def send(wires: dict[str, Wire], source: str, payload: bytes, **how: object) -> None:
    wires[source].send(frame(A, B, payload, **how))  # type: ignore[arg-type]


def heard(wires: dict[str, Wire], payload: bytes, seconds: float = 0.2, kind: int = TEST_TYPE) -> dict[str, int]:
    """How many frames with this payload came to each host."""
    found = {}
    time.sleep(seconds)
    for name, wire in wires.items():
        count = 0
        while frames := wire.received(0.01, kind):  # on a slow machine there is more than is read in that time
            count += sum(payload in each for each in frames)
        if count:
            found[name] = count
    return found


def test_without_flows_a_secure_bridge_drops(lab: Lab, ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    assert ofctl.flows("br0") == []
    before = lab.drops("one").get("no_flow", 0)
    send(wires, "one", b"nobody asked")
    assert heard(wires, b"nobody asked") == {}
    eventually("the drop is counted", lambda: lab.drops("one")["no_flow"] > before)


@pytest.mark.parametrize("version", [(), OF13])
def test_show(ofctl: Ofctl, version: tuple[str, ...]) -> None:
    shown = ofctl(*version, "show", "br0")
    assert "n_tables:254, n_buffers:0" in shown
    for number, name in enumerate(NAMES, 1):
        assert re.search(rf"^ {number}\({name}\): addr:[0-9a-f:]{{17}}$", shown, re.M)
    assert ofctl(*version, "dump-ports-desc", "br0").count("addr:") == len(NAMES)
    assert f"{len(NAMES)} ports" in ofctl(*version, "dump-ports", "br0")
    assert "DP Description: br0" in ofctl(*version, "dump-desc", "br0")
    assert ofctl.refused(*version, "dump-ports", "br0", "77") == "OFPBRC_BAD_PORT"


def test_outputs_and_counters(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", f"in_port=1,dl_src={A},actions=output:2,output:3")
    ofctl("add-flow", "br0", "in_port=2,actions=in_port")
    ofctl("add-flow", "br0", "in_port=3,actions=flood")
    ofctl("add-flow", "br0", "in_port=4,actions=normal")
    ofctl("mod-port", "br0", "four", "no-flood")
    send(wires, "one", b"to two and three")
    assert heard(wires, b"to two and three") == {"two": 1, "three": 1}
    send(wires, "two", b"back")
    assert heard(wires, b"back") == {"two": 1}
    send(wires, "three", b"flood")
    assert heard(wires, b"flood") == {"one": 1, "two": 1}
    send(wires, "four", b"normal")
    assert heard(wires, b"normal") == {"one": 1, "two": 1, "three": 1}
    assert ofctl.counted("br0", "in_port=1") == (1, 60)


def test_a_port_that_is_taken_down_takes_its_device_down(lab: Lab, ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", "in_port=1,actions=output:2")
    ofctl("mod-port", "br0", "two", "down")
    assert "PORT_DOWN" in ofctl("dump-ports-desc", "br0").split(" 2(two)")[1].split(" 3(three)")[0]
    assert lab.site.links()["two"].get("state") == "down"
    eventually("the link is told", lambda: "LINK_DOWN" in ofctl("dump-ports-desc", "br0"))
    send(wires, "one", b"to nobody")
    assert heard(wires, b"to nobody") == {}
    ofctl("mod-port", "br0", "two", "up")
    assert lab.site.links()["two"].get("state") == "up"
    send(wires, "one", b"to two again")
    assert heard(wires, b"to two again") == {"two": 1}


def test_edits_leave_correct_frames(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl(
        "add-flow", "br0",
        "in_port=1,udp,actions=mod_dl_src:02:00:00:00:00:99,mod_nw_dst:10.9.9.9,mod_tp_dst:53,mod_vlan_vid:7,output:2",
    )  # fmt: skip
    packet = ipv4(b"edited")
    wires["one"].send(packet)
    (got,) = (each for each in wires["two"].received(0.3, IPV4) if b"edited" in each)
    assert got[6:12].hex() == "020000000099"
    assert got[12:16].hex() == "81000007"
    assert got[34:38] == bytes([10, 9, 9, 9])
    assert struct.unpack("!H", got[40:42]) == (53,)
    words = struct.unpack("!10H", got[18:38])
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_tables_registers_and_resubmit(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    flows = """
        table=0,in_port=1,actions=load:3->NXM_NX_REG0[],resubmit(,5),output:2
        table=5,reg0=3,actions=output:NXM_NX_REG0[]
        table=0,in_port=2,actions=write_metadata:0x77,goto_table:6
        table=6,metadata=0x77,actions=output:4
    """
    ofctl(*OF13, "add-flows", "br0", "-", given=flows)
    send(wires, "one", b"by register")
    assert heard(wires, b"by register") == {"two": 1, "three": 1}
    send(wires, "two", b"by metadata")
    assert heard(wires, b"by metadata") == {"four": 1}


def test_modify_and_delete_loose_and_strict(ofctl: Ofctl) -> None:
    ofctl(
        "add-flows",
        "br0",
        "-",
        given="priority=1,actions=1\npriority=2,tcp,actions=2\npriority=3,tcp,tp_dst=80,actions=3",
    )
    ofctl("mod-flows", "br0", "tcp,actions=drop")
    assert ofctl.flows("br0") == [
        "cookie=0x0, table=0, priority=1 actions=output:1",
        "cookie=0x0, table=0, priority=2,tcp actions=drop",
        "cookie=0x0, table=0, priority=3,tcp,tp_dst=80 actions=drop",
    ]
    ofctl("--strict", "mod-flows", "br0", "priority=2,tcp,actions=4")
    ofctl("--strict", "del-flows", "br0", "priority=9,tcp")
    assert len(ofctl.flows("br0")) == 3
    ofctl("del-flows", "br0", "tcp,out_port=4")
    assert len(ofctl.flows("br0")) == 2
    ofctl("add-flow", "br0", "cookie=0x12,priority=5,udp,actions=1")
    ofctl("del-flows", "br0", "cookie=0x10/0xf0")
    assert len(ofctl.flows("br0")) == 2
    ofctl("replace-flows", "br0", "-", given="priority=7,actions=2")
    assert ofctl.flows("br0") == ["cookie=0x0, table=0, priority=7 actions=output:2"]
    assert ofctl("diff-flows", "br0", "/dev/stdin", given="priority=7,actions=2") == ""


def test_what_is_refused(ofctl: Ofctl) -> None:
    assert ofctl.refused(*OF13, "add-flow", "br0", "actions=group:5") == "OFPBAC_BAD_OUT_GROUP"
    assert ofctl.refused(*OF13, "add-flow", "br0", "actions=meter:5,output:1") == "OFPMMFC_INVALID_METER"
    ofctl(*OF13, "add-flow", "br0", "priority=4,in_port=1,actions=1")
    overlapping = "check_overlap,priority=4,udp,actions=1"
    assert ofctl.refused(*OF13, "add-flow", "br0", overlapping) == "OFPFMFC_OVERLAP"
    ofctl(*OF13, "add-group", "br0", "group_id=1,type=all,bucket=output:1")
    assert ofctl.refused(*OF13, "add-group", "br0", "group_id=1,type=all,bucket=output:1") == "OFPGMFC_GROUP_EXISTS"
    assert ofctl.refused(*OF13, "mod-group", "br0", "group_id=2,type=all,bucket=output:1") == "OFPGMFC_UNKNOWN_GROUP"
    assert ofctl.refused(*OF13, "mod-group", "br0", "group_id=1,type=all,bucket=group:1") == "OFPGMFC_LOOP"
    assert ofctl.refused(*OF13, "mod-meter", "br0", "meter=3,kbps,band=type=drop,rate=1") == "OFPMMFC_UNKNOWN_METER"


def test_a_group_of_each_kind(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    add = (*OF13, "add-group", "br0")
    ofctl(*add, "group_id=1,type=all,bucket=output:2,bucket=set_field:02:00:00:00:00:77->eth_dst,output:3")
    ofctl(*add, "group_id=2,type=indirect,bucket=output:4")
    ofctl(*add, "group_id=3,type=ff,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3")
    ofctl(*add, "group_id=4,type=select,bucket=weight:1,output:2,bucket=weight:3,output:3")
    for number in (1, 2, 3):
        ofctl(*OF13, "add-flow", "br0", f"priority={number},dl_vlan={number},actions=group:{number}")
    ofctl(*OF13, "add-flow", "br0", "udp,nw_src=10.0.0.1,actions=group:4")
    send(wires, "one", b"to all", vlan=1)
    assert heard(wires, b"to all") == {"two": 1, "three": 1}
    send(wires, "one", b"indirectly", vlan=2)
    assert heard(wires, b"indirectly") == {"four": 1}
    send(wires, "one", b"first", vlan=3)
    assert heard(wires, b"first") == {"two": 1}
    ofctl(*OF13, "mod-port", "br0", "two", "down")
    send(wires, "one", b"second", vlan=3)
    assert heard(wires, b"second") == {"three": 1}
    for number in range(200):
        wires["one"].send(ipv4(b"spread", ports=(number, 2000)))
    ofctl(*OF13, "mod-port", "br0", "two", "up")
    for number in range(200):
        wires["one"].send(ipv4(b"spread", ports=(number, 2000)))
    got = heard(wires, b"spread", 0.5, IPV4)
    assert 200 < got["three"] < 400
    stats = ofctl(*OF13, "dump-group-stats", "br0", "group_id=4")
    assert "packet_count=400" in stats
    assert "ref_count=1" in stats


def test_a_meter_drops_what_is_above_its_rate(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl(*OF13, "add-meter", "br0", "meter=1,pktps,burst,stats,band=type=drop,rate=1,burst_size=10")
    ofctl(*OF13, "add-flow", "br0", f"in_port=1,dl_src={A},actions=meter:1,output:2")
    wires["one"].send(*[frame(A, B, b"metered")] * 50)
    got = heard(wires, b"metered")["two"]
    assert 10 <= got <= 13
    stats = ofctl(*OF13, "meter-stats", "br0")
    assert f"packet_count:{50 - got}" in stats
    assert "packet_in_count:50" in stats
    ofctl(*OF13, "mod-meter", "br0", "meter=1,pktps,burst,band=type=drop,rate=1000,burst_size=1000")
    wires["one"].send(*[frame(A, B, b"faster")] * 50)
    assert heard(wires, b"faster") == {"two": 50}
    ofctl(*OF13, "del-meter", "br0", "meter=1")
    assert ofctl.flows("br0") == []


def test_time_outs_and_flow_removed(ofctl: Ofctl) -> None:
    with ofctl.listening(*OF13, "monitor", "br0", "65534") as said:
        ofctl(*OF13, "add-flow", "br0", "send_flow_rem,hard_timeout=1,priority=9,actions=1")
        ofctl(*OF13, "add-flow", "br0", "send_flow_rem,idle_timeout=1,priority=8,actions=1")
        eventually("both are gone", lambda: ofctl.flows("br0") == [], 5)
        ofctl(*OF13, "add-flow", "br0", "send_flow_rem,priority=7,actions=1")
        ofctl(*OF13, "del-flows", "br0")
    for reason in ("priority=9 reason=hard", "priority=8 reason=idle", "priority=7 reason=delete"):
        assert reason in said[0]


PACKET_IN_KINDS = {
    "standard": "OFPT_PACKET_IN",
    "nxt_packet_in": "NXT_PACKET_IN",
    "nxt_packet_in2": "NXT_PACKET_IN2",
}


@pytest.mark.parametrize("form", PACKET_IN_KINDS)
@pytest.mark.parametrize("version", [("-O", "OpenFlow10"), OF13])
def test_packet_ins(ofctl: Ofctl, wires: dict[str, Wire], version: tuple[str, ...], form: str) -> None:
    ofctl("add-flow", "br0", "cookie=0x123,in_port=2,actions=load:5->NXM_NX_REG1[],controller")
    with ofctl.listening(*version, "-P", form, "monitor", "br0", "65534") as heard_said:
        send(wires, "two", b"for the controller")
    (said,) = heard_said
    assert f"{PACKET_IN_KINDS[form]} " in said
    assert "total_len=60" in said
    assert "in_port=2" in said
    assert "(via action)" in said
    if form != "standard" or version == OF13:
        assert "cookie=0x123" in said
        assert "reg1=0x5" in said


def test_packet_outs(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    data = frame(A, B, b"said by a controller").hex()
    ofctl("packet-out", "br0", f"in_port=controller packet={data} actions=output:2,output:3")
    assert heard(wires, b"said by a controller") == {"two": 1, "three": 1}
    ofctl("packet-out", "br0", f"in_port=controller packet={data} actions=normal")
    assert heard(wires, b"said by a controller") == dict.fromkeys(NAMES, 1)
    ofctl("add-flow", "br0", "in_port=1,actions=output:4")
    ofctl("packet-out", "br0", f"in_port=1 packet={data} actions=table")
    assert heard(wires, b"said by a controller") == {"four": 1}


def test_bundles_are_all_or_nothing(ofctl: Ofctl) -> None:
    ofctl(*OF13, "--bundle", "add-flows", "br0", "-", given="priority=7,actions=1\npriority=8,tcp,actions=2")
    assert len(ofctl.flows("br0")) == 2
    done = ofctl.run(*OF13, "--bundle", "add-flows", "br0", "-", given="priority=9,actions=1\nactions=group:99")
    assert done.returncode != 0
    assert len(ofctl.flows("br0")) == 2
    ofctl(*OF13, "bundle", "br0", "-", given="group add group_id=7,type=all,bucket=output:1\nflow add actions=group:7")
    assert len(ofctl.flows("br0")) == 3


def test_a_packet_after_a_barrier_meets_the_new_flows(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    """ovs-ofctl ends with a barrier: what is sent after it came back has to go by what it did."""
    for _ in range(10):
        for port, name in ((2, "two"), (3, "three")):
            ofctl("add-flow", "br0", f"in_port=1,actions=output:{port}")
            send(wires, "one", b"after the barrier")
            assert heard(wires, b"after the barrier", 0.05) == {name: 1}


def test_port_mods_and_fragments(lab: Lab, ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", "actions=all")
    ofctl("mod-port", "br0", "two", "no-receive")
    send(wires, "two", b"unheard")
    assert heard(wires, b"unheard") == {}
    assert "NO_RECV" in ofctl("show", "br0")
    ofctl("set-frags", "br0", "drop")
    assert "drop" in ofctl("get-frags", "br0")
    ofctl("set-frags", "br0", "normal")


def test_conjunctive_matches(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    flows = """
        priority=50,udp,nw_src=10.0.0.1,actions=conjunction(7,1/2)
        priority=50,udp,nw_src=10.0.0.9,actions=conjunction(7,1/2)
        priority=50,udp,tp_dst=2000,actions=conjunction(7,2/2)
        priority=50,udp,tp_dst=2001,actions=conjunction(7,2/2)
        priority=50,conj_id=7,udp,actions=output:2
        priority=10,udp,actions=output:3
    """
    ofctl("add-flows", "br0", "-", given=flows)
    for port, name in ((2000, "two"), (2001, "two"), (2002, "three")):
        wires["one"].send(ipv4(b"conjunction", ports=(5, port)))
        assert heard(wires, b"conjunction", kind=IPV4) == {name: 1}
    assert "actions=conjunction(7,1/2)" in ofctl("dump-flows", "br0", "nw_src=10.0.0.9,udp")


def test_learned_flows(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    learn = (
        "learn(table=10,idle_timeout=60,priority=9,cookie=0x77,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],"
        "load:0x5->NXM_NX_REG3[0..7],output:NXM_OF_IN_PORT[])"
    )
    ofctl("add-flow", "br0", f"dl_type=0x88b5,actions={learn},resubmit(,10)")
    send(wires, "three", b"teaches")
    eventually("the flow is there", lambda: len(ofctl.flows("br0", match="table=10")) == 1)
    shown = ofctl.flows("br0", match="table=10")[0]
    assert f"dl_dst={A} actions=load:0x5->NXM_NX_REG3[0..7],output:3" in shown
    assert "cookie=0x77, table=10, idle_timeout=60, priority=9" in shown
    wires["one"].send(frame(B, A, b"to whom taught"))
    assert heard(wires, b"to whom taught") == {"three": 1}
    assert learn in ofctl("dump-flows", "br0", "table=0")


def test_bundle_multipath_and_fin_timeout(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", "in_port=1,dl_type=0x88b5,actions=bundle(eth_src,0,active_backup,ofport,members:2,3)")
    send(wires, "one", b"first member")
    assert heard(wires, b"first member") == {"two": 1}
    ofctl("mod-port", "br0", "two", "down")
    send(wires, "one", b"second member")
    assert heard(wires, b"second member") == {"three": 1}
    ofctl("mod-port", "br0", "two", "up")

    def first_is_back() -> bool:
        send(wires, "one", b"first again")
        return heard(wires, b"first again") == {"two": 1}

    eventually("the link to be up", first_is_back)
    spread = "multipath(symmetric_l3l4,7,modulo_n,2,0,NXM_NX_REG0[0..15]),resubmit(,4)"
    ofctl("add-flow", "br0", f"in_port=1,udp,actions={spread}")
    ofctl("add-flow", "br0", "table=4,reg0=0,actions=2")
    ofctl("add-flow", "br0", "table=4,reg0=1,actions=3")
    for number in range(100):
        wires["one"].send(ipv4(b"spread", ports=(number, 2000)))
    got = heard(wires, b"spread", 0.3, IPV4)
    assert got["two"] + got["three"] == 100
    assert min(got.values()) > 20
    ofctl("add-flow", "br0", "in_port=4,tcp,idle_timeout=100,actions=fin_timeout(idle_timeout=1),output:1")
    wires["four"].send(ipv4(bytes(4) + b"\x50\x11" + bytes(6) + b"FIN and ACK", proto=6))
    eventually("the flow ends", lambda: ofctl.flows("br0", match="in_port=4,tcp") == [], 6)


def test_flow_monitors(ofctl: Ofctl) -> None:
    ofctl("add-flow", "br0", "cookie=0x1,priority=5,tcp,actions=1")
    with (
        ofctl.listening("monitor", "br0", "watch:") as all_said,
        ofctl.listening("monitor", "br0", "watch:udp") as udp_said,
    ):
        ofctl("add-flow", "br0", "cookie=0x2,priority=6,udp,actions=2")
        ofctl("mod-flows", "br0", "udp,actions=3")
        ofctl("add-flow", "br0", "cookie=0x3,priority=7,icmp,hard_timeout=1,actions=4")
        ofctl("del-flows", "br0", "tcp")
        eventually("the one with a time-out is gone", lambda: ofctl.flows("br0", match="icmp") == [])
    (said,), (of_udp,) = all_said, udp_said
    assert "MODIFIED table=0 cookie=0 udp actions=output:3" in of_udp
    assert "tcp" not in of_udp
    assert "icmp" not in of_udp
    for event in (
        "event=ADDED table=0 cookie=0x1 tcp actions=output:1",
        "event=ADDED table=0 cookie=0x2 udp actions=output:2",
        "event=MODIFIED table=0 cookie=0 udp actions=output:3",
        "event=DELETED reason=delete table=0 cookie=0x1 tcp actions=output:1",
        "event=DELETED reason=hard table=0 hard_timeout=1 cookie=0x3 icmp actions=output:4",
    ):
        assert event in said, said


def test_user_data(ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", "in_port=2,actions=controller(userdata=01.02.03.04,id=0,max_len=100)")
    with ofctl.listening("-P", "nxt_packet_in2", "monitor", "br0", "65534") as said:
        send(wires, "two", b"with user data")
    assert "userdata=01.02.03.04" in said[0]


def test_flows_outlive_control_and_ports_keep_their_numbers(lab: Lab, ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl(*OF13, "add-group", "br0", "group_id=1,type=all,bucket=output:2,bucket=output:3")
    ofctl(*OF13, "add-meter", "br0", "meter=1,pktps,band=type=drop,rate=100000")
    ofctl(*OF13, "add-flow", "br0", f"cookie=0x5,in_port=1,dl_src={A},actions=meter:1,group:1")
    send(wires, "one", b"before")
    assert heard(wires, b"before") == {"two": 1, "three": 1}
    ofctl("mod-port", "br0", "four", "no-flood")
    lab.switch.kill("control")
    send(wires, "one", b"meanwhile")
    assert heard(wires, b"meanwhile") == {"two": 1, "three": 1}
    eventually("control is back", lambda: ofctl.run("show", "br0").returncode == 0, 15)
    assert "NO_FLOOD" in ofctl("show", "br0")
    assert ofctl.counted("br0", "in_port=1") == (2, 120)
    assert "bucket=actions=output:2" in ofctl(*OF13, "dump-groups", "br0")
    assert "meter=1 pktps" in ofctl(*OF13, "dump-meters", "br0")
    ofctl(*OF13, "mod-group", "br0", "group_id=1,type=all,bucket=output:4")
    send(wires, "one", b"after")
    assert heard(wires, b"after") == {"four": 1}


def test_flows_outlive_the_engine(lab: Lab, ofctl: Ofctl, wires: dict[str, Wire]) -> None:
    ofctl("add-flow", "br0", f"in_port=1,dl_src={A},actions=output:4")
    send(wires, "one", b"before")
    assert heard(wires, b"before") == {"four": 1}
    lab.switch.kill("engine")
    eventually("the engine is back", lambda: lab.switch.command("show").returncode == 0, 15)
    eventually("all ports are", lambda: all(lab.state(name)["state"] == "up" for name in NAMES), 15)
    send(wires, "one", b"after")
    assert heard(wires, b"after") == {"four": 1}
    assert ofctl.counted("br0", "in_port=1") == (2, 120)
