"""Flows as text: read as ovs-ofctl reads them (by what it sends for the same text), written so that it reads them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.openflow.bridge import FlowMod
from penstock.openflow.match import Match, decode_13
from penstock.openflow.stats import TABLE_FEATURES
from penstock.openflow.table_features import table_features
from penstock.openflow.text_actions import parse_instructions
from penstock.openflow.text_flow import parse_flow, parse_select
from penstock.openflow.text_match import TextError, parse_match, show_match
from penstock.openflow.text_shown import show_instructions
from penstock.openflow.wire import OF13, Stream, Type, message

PORTS = {"p1": 1, "p2": 2}
FLOWS = """
actions=drop
priority=100,tcp,nw_dst=10.0.0.1,tp_dst=80,actions=output:2
in_port=1,dl_vlan=5,actions=pop_vlan,output:2
in_port=LOCAL,dl_vlan=0xffff,actions=NORMAL
dl_vlan_pcp=3,actions=FLOOD
vlan_tci=0x1000/0x1000,actions=ALL
dl_src=02:00:00:00:00:01/ff:ff:ff:00:00:00,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=IN_PORT
table=3,idle_timeout=10,hard_timeout=5,cookie=0x1234,send_flow_rem,arp,arp_spa=10.0.0.0/8,arp_op=1,actions=CONTROLLER:128
ip,nw_src=10.0.0.0/255.0.255.0,nw_tos=32,nw_ecn=1,nw_ttl=64,actions=dec_ttl,output:1
ip,nw_frag=later,actions=drop
ip,nw_frag=not_later,actions=1
ip,nw_proto=47,actions=1
udp,tp_src=0x400/0xfc00,actions=2
icmp,icmp_type=8,icmp_code=0,actions=2
ipv6,ipv6_src=2001:db8::/32,ipv6_label=0x12345,actions=2
tcp6,ipv6_dst=2001:db8::1,tp_dst=443,actions=2
icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::1,nd_sll=02:00:00:00:00:02,actions=2
tcp,tcp_flags=+syn-ack,actions=2
sctp,tp_dst=99,actions=2
mpls,mpls_label=77,mpls_tc=3,mpls_bos=1,actions=pop_mpls:0x0800,output:1
metadata=0x5/0xff,reg0=7,reg5=0x10/0xf0,tun_id=99,actions=goto_table:9
xreg1=0x1122334455667788,actions=2
pkt_mark=3,actions=2
ip,dl_vlan=9,actions=set_field:10.1.2.3->ip_dst,set_field:02:00:00:00:00:09->eth_src,set_field:5->vlan_vid,output:1
ipv6,actions=set_field:0x5->metadata,set_field:9->reg3,set_field:2001:db8::5->ipv6_src
tcp,actions=set_field:8080->tcp_dst,group:4
actions=load:0x7->NXM_NX_REG0[0..7],move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],output:NXM_NX_REG0[]
actions=push:NXM_NX_REG2[0..15],pop:NXM_NX_REG3[0..15],exit
actions=resubmit(,5),resubmit(2,6),resubmit:3
actions=push_vlan:0x88a8,set_field:7->vlan_vid,push_mpls:0x8847,set_mpls_ttl(9),dec_mpls_ttl,output:2
actions=set_queue:3,output:1,pop_queue
actions=controller(max_len=100,reason=no_match,id=5),note:01.02.03.00.00.00
actions=clone(set_field:7->reg0,output:1),output:2
actions=meter:1,clear_actions,write_actions(set_field:9->reg0,output:1),write_metadata:0x7/0xff,goto_table:5
udp,actions=conjunction(7,1/2),conjunction(9,3/3)
conj_id=7,udp,actions=output:2
tcp,actions=fin_timeout(idle_timeout=5,hard_timeout=9),output:1
actions=multipath(symmetric_l4,7,hrw,16,0,NXM_NX_REG1[4..7]),bundle(nw_src,0,hrw,ofport,members:1,2)
actions=bundle_load(eth_src,5,active_backup,ofport,NXM_NX_REG0[0..15],members:3,4,5)
actions=learn(table=9,idle_timeout=6,priority=7,cookie=0x8,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0x5->NXM_NX_REG0[0..7],output:NXM_OF_IN_PORT[])
actions=learn(table=3,send_flow_rem,fin_idle_timeout=9,eth_type=0x0800,NXM_OF_VLAN_TCI[0..11],load:NXM_NX_REG1[]->NXM_NX_REG2[])
actions=set_tunnel:0x5,set_tunnel64:0x123456789a
""".strip().splitlines()


class Recorder:
    """A switch that says nothing of what it is told, and keeps the flow-mods."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "switch"
        self.mods: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        stream = Stream()
        connection.sendall(message(OF13, Type.HELLO, 0))
        while data := connection.recv(65536):
            for raw in stream.feed(data):
                if raw.number == Type.BARRIER_REQUEST:
                    connection.sendall(message(OF13, Type.BARRIER_REPLY, raw.xid))
                elif raw.number == Type.FLOW_MOD:
                    self.mods.append(bytes(raw.body))
                elif raw.number == Type.MULTIPART_REQUEST:
                    # ovs-ofctl asks for the names of tables and ports first.
                    rows = next(table_features(lambda _table: 1)) if raw.body[1] == TABLE_FEATURES else b""
                    reply = bytes(raw.body[:2]) + bytes(6) + rows
                    connection.sendall(message(OF13, Type.MULTIPART_REPLY, raw.xid, reply))

    def close(self) -> None:
        self._listener.close()

    def add_flow(self, text: str) -> FlowMod:
        """What ovs-ofctl sends for a flow's text."""
        self.mods.clear()
        words = ["ovs-ofctl", "-O", "OpenFlow13", "add-flow", f"unix:{self.path}", text]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, env={**os.environ, "OVS_RUNDIR": "/"})
        assert done.returncode == 0, done.stderr
        (body,) = self.mods
        cookie, mask, table, command, idle, hard, priority, _buffer, _port, _group, flags = struct.unpack_from(
            "!QQBBHHHIIIH2x", body
        )
        match, at = decode_13(memoryview(body), 40)
        return FlowMod(command, table, priority, match, body[at:], cookie, mask, idle, hard, flags)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    if shutil.which("ovs-ofctl") is None:
        pytest.skip("ovs-ofctl is not installed")
    made = Recorder(tmp_path_factory.mktemp("recorder"))
    yield made
    made.close()


@pytest.mark.parametrize("text", FLOWS)
def test_flows_are_read_as_ovs_ofctl_reads_them(recorder: Recorder, text: str) -> None:
    theirs, ours = recorder.add_flow(text), parse_flow(text, PORTS)
    assert show_match(ours.match, {}) == show_match(theirs.match, {})
    assert ours.match == theirs.match
    assert show_instructions(ours.instructions, {}) == show_instructions(theirs.instructions, {})
    got, wanted = ((mod.table, mod.priority, mod.cookie, mod.idle, mod.hard, mod.flags) for mod in (ours, theirs))
    assert got == wanted


@pytest.mark.parametrize("text", FLOWS)
def test_what_is_written_is_read_back(recorder: Recorder, text: str) -> None:
    """By this reader and by ovs-ofctl's."""
    mod = parse_flow(text, PORTS)
    match, actions = ",".join(show_match(mod.match, {})), show_instructions(mod.instructions, {})
    assert parse_match(match, {}) == mod.match
    assert parse_instructions(actions, {}) == mod.instructions
    prefix = f"{match}," if match else ""
    assert recorder.add_flow(f"{prefix}actions={actions}").match == mod.match


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("in_port=1", "has no actions="),
        ("in_port=nowhere,actions=drop", "'nowhere' is no port: neither a number nor one of p1, p2"),
        ("colour=1,actions=drop", "'colour' is no match field"),
        ("nw_dst=10.0.0.300,ip,actions=drop", "Octet 300"),
        ("priority=70000,actions=drop", "priority: 70000 is not in 0 to 65535"),
        ("actions=fly", "'fly' is no action"),
        ("actions=load:0x100->NXM_NX_REG0[0..7]", "load: 256 is not in 0 to 255"),
        ("actions=output:NXM_NX_REG0[3..40]", "field reg0 has bits 0 to 31"),
        ("actions=clone(output:1", "brackets in"),
        ("dl_src=1:2:3,actions=drop", "no Ethernet address"),
        ("actions=goto_table:300", "goto_table: 300 is not in 0 to 253"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(TextError, match=re.escape(said)):
        parse_flow(text, PORTS)


def test_ports_have_names() -> None:
    mod = parse_flow("in_port=p1,actions=output:p2,p1", PORTS)
    numbers = {1: "p1", 2: "p2"}
    assert show_match(mod.match, numbers) == ["in_port=p1"]
    assert show_instructions(mod.instructions, numbers) == "output:p2,output:p1"


def test_selections() -> None:
    select = parse_select("table=4,cookie=0x10/0xf0,out_port=p2,tcp", PORTS)
    assert (select.table, select.cookie, select.cookie_mask, select.out_port) == (4, 0x10, 0xF0, 2)
    assert select.match == Match(parse_match("tcp", {}).key, parse_match("tcp", {}).mask)
