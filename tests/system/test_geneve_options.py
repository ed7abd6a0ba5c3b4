"""Options of Geneve by ovs-ofctl's tlv-map commands, with Open vSwitch's user-space datapath at the other end."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.demo.echo import ping
from tests.system.lab import Lab, unanswered
from tests.system.ofctl import OF13, Ofctl
from tests.system.tunnels import FAR_MTU, HERE, THERE, FarSwitch, Site, dissect

pytestmark = pytest.mark.needs("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "ethtool")

MAP = "{class=0x102,type=0x80,len=4}->tun_metadata0,{class=0x108,type=0x1,len=8}->tun_metadata1"
OVERLAY = f"""
[bridge.over]
[bridge.over.port.vm1]
type = "tap"
ofport = 1
mtu = {FAR_MTU}
[bridge.over.port.tun]
type = "geneve"
ofport = 2
remote_ip = "{THERE}"
key = 7
"""


def test_the_map_is_told_changed_and_kept(lab: Lab) -> None:
    lab.start("[bridge.over]")
    ofctl = Ofctl(lab.switch.rundir)
    ofctl("add-tlv-map", "over", MAP)
    shown = [line.split() for line in ofctl("dump-tlv-map", "over").splitlines()[-2:]]
    assert shown == [["0x102", "0x80", "4", "tun_metadata0"], ["0x108", "0x1", "8", "tun_metadata1"]]
    assert ofctl.refused("add-tlv-map", "over", "{class=1,type=1,len=4}->tun_metadata0") == "NXTTMFC_ALREADY_MAPPED"
    assert ofctl.refused("add-tlv-map", "over", "{class=0x102,type=0x80,len=4}->tun_metadata3") == "NXTTMFC_DUP_ENTRY"
    assert ofctl.refused("add-tlv-map", "over", "{class=1,type=1,len=12}->tun_metadata3") == "NXTTMFC_BAD_OPT_LEN"
    assert ofctl.refused("add-tlv-map", "over", "{class=1,type=1,len=4}->tun_metadata8") == "NXTTMFC_BAD_FIELD_IDX"
    ofctl(*OF13, "add-flow", "over", "tun_metadata0=0x1234,actions=set_field:0x5->tun_metadata1,output:1")
    assert ofctl.refused("del-tlv-map", "over", MAP.partition(",{")[0]) == "NXTTMFC_INVALID_TLV_DEL"
    assert ofctl.refused("del-tlv-map", "over", "{" + MAP.partition(",{")[2]) == "NXTTMFC_INVALID_TLV_DEL"
    for role in ("control", "engine"):
        lab.switch.await_return(role, lab.switch.kill(role))
        assert "tun_metadata1" in ofctl("dump-tlv-map", "over")
    ofctl("del-flows", "over")
    ofctl("del-tlv-map", "over", MAP.partition(",{")[0])
    assert "tun_metadata0" not in ofctl("dump-tlv-map", "over")
    ofctl("del-tlv-map", "over")
    assert "tun_metadata" not in ofctl("dump-tlv-map", "over")


def test_flows_are_told_as_they_were_given(lab: Lab) -> None:
    lab.start("[bridge.over]")
    ofctl = Ofctl(lab.switch.rundir)
    ofctl("add-tlv-map", "over", MAP)
    given = {
        "tun_metadata0=0x1234 actions=drop",
        "tun_metadata0=0 actions=drop",
        "tun_metadata1=0xabcdef0123456789 actions=drop",
        "priority=7 actions=set_field:0x5/0xff->tun_metadata0,move:NXM_NX_TUN_METADATA0[0..31]->NXM_NX_REG0[]",
        "priority=8 actions=set_field:0x1234567890->tun_metadata1",
        "priority=9 actions=set_field:0x5/0xff->tun_metadata1",
    }
    for flow in given:
        ofctl(*OF13, "add-flow", "over", flow.replace(" actions", ",actions"))
    told = {line.replace("cookie=0x0, table=0, ", "").replace(", ", " ") for line in ofctl.flows("over", *OF13)}
    assert told == given | {"priority=0 actions=NORMAL"}


@pytest.mark.needs("tshark", "tcpdump")
def test_options_pass_both_ways(lab: Lab, tmp_path: Path) -> None:
    site = Site(lab)
    far = FarSwitch(site, tmp_path)
    site.begin(OVERLAY)
    far.host("behind", "192.168.0.2/24")
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    far.tunnel("tun", "geneve", remote_ip=HERE, key="7")
    far.ovs.ofctl("add-tlv-map", MAP)
    far.ovs.ofctl("del-flows")
    far.ovs.ofctl("add-flow", "tun_metadata0=0x1234,tun_metadata1=0xaabbccddeeff0011,in_port=tun,actions=behind")
    far.ovs.ofctl("add-flow", "in_port=behind,actions=set_field:0x4321->tun_metadata0,tun")
    ofctl = Ofctl(lab.switch.rundir)
    ofctl("add-tlv-map", "over", MAP)
    ofctl("del-flows", "over")
    sets = "set_field:0x1234->tun_metadata0,set_field:0xaabbccddeeff0011->tun_metadata1"
    ofctl(*OF13, "add-flow", "over", f"in_port=1,actions={sets},output:2")
    ofctl(*OF13, "add-flow", "over", "in_port=2,tun_metadata0=0x4321,tun_metadata1=0,actions=output:1")
    with site.captured(tmp_path) as file:
        assert ping(vm1, "192.168.0.2", timeout=3).received == 3
        assert ping(vm1, "192.168.0.2", size=5000).received == 3
    fields = ("geneve.flags", "geneve.option.class", "geneve.option.type", "geneve.option.unknown.data")
    sent = {tuple(row) for row in dissect(file, *fields, display="icmp.type == 8 && ip.src == 192.168.0.1")}
    assert {(row[1].lower(), row[2].lower()) for row in sent} == {("0x0102,0x0108", "0x80,0x01")}
    assert dissect(file, "frame.number", display="_ws.malformed") == []
    ofctl(*OF13, "mod-flows", "over", "in_port=1,actions=set_field:0x1235->tun_metadata0,output:2")
    assert unanswered(vm1, "192.168.0.2")
