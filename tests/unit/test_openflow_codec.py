"""OpenFlow's bytes against those of os-ken, which has a codec that nobody here wrote."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os_ken = pytest.importorskip("os_ken", reason="os-ken is not installed")
from os_ken.ofproto import ofproto_parser, ofproto_protocol  # noqa: E402
from os_ken.ofproto import ofproto_v1_0 as o10  # noqa: E402
from os_ken.ofproto import ofproto_v1_0_parser as p10  # noqa: E402
from os_ken.ofproto import ofproto_v1_3 as o13  # noqa: E402
from os_ken.ofproto import ofproto_v1_3_parser as p13  # noqa: E402

from penstock.engine.frames import PacketIn  # noqa: E402
from penstock.openflow import ports  # noqa: E402
from penstock.openflow.actions10 import from_10, to_10  # noqa: E402
from penstock.openflow.match import decode_13, encode_13  # noqa: E402
from penstock.openflow.match10 import decode_10, encode_10  # noqa: E402
from penstock.openflow.packet_in import STANDARD, packet_in  # noqa: E402
from penstock.openflow.text_match import parse_match  # noqa: E402
from penstock.openflow.wire import OF10, OF13, Stream, Type, message  # noqa: E402
from penstock.packet.fields import KEY_SIZE  # noqa: E402
from tests.unit.openflow_support import FakeHost  # noqa: E402

V10, V13 = ofproto_protocol.ProtocolDesc(OF10), ofproto_protocol.ProtocolDesc(OF13)


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


def bytes_of(made: Any, xid: int = 7) -> bytes:
    """An os-ken message, serialised."""
    made.xid = None  # os-ken sets it once
    made.set_xid(xid)
    made.serialize()
    return bytes(made.buf)


def parsed(data: bytes) -> list[Any]:
    """os-ken's messages for bytes of ours."""
    found = []
    for raw in Stream().feed(data):
        desc = V10 if raw.version == OF10 else V13
        version, kind, length, xid = ofproto_parser.header(raw.data)
        found.append(ofproto_parser.msg(desc, version, kind, length, xid, raw.data))
    return found


macs = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))
ipv4s = st.integers(0, 2**32 - 1).map(lambda value: ".".join(map(str, value.to_bytes(4, "big"))))


@st.composite
def oxm_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of os-ken's OFPMatch whose prerequisites are met."""
    found: dict[str, Any] = {}
    optional = {
        "in_port": st.integers(1, 0xFF00),
        "metadata": st.integers(0, 2**64 - 1),
        "eth_dst": macs,
        "eth_src": st.tuples(macs, st.just("ff:ff:ff:00:00:00")),
        "vlan_vid": st.integers(0x1000, 0x1FFE),
        "tunnel_id": st.integers(0, 2**64 - 1),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        found[name] = draw(optional[name])
    if "vlan_vid" in found and draw(st.booleans()):
        found["vlan_pcp"] = draw(st.integers(0, 7))
    kind = draw(st.sampled_from([None, 0x0800, 0x0806, 0x86DD, 0x8847]))
    if kind is None:
        return found
    found["eth_type"] = kind
    if kind == 0x0800:
        found["ipv4_src"] = draw(ipv4s)
        found["ipv4_dst"] = draw(st.tuples(ipv4s, st.just("255.255.0.0")))
        found["ip_dscp"] = draw(st.integers(0, 63))
    if kind == 0x0806:
        found |= {"arp_op": draw(st.integers(1, 2)), "arp_spa": draw(ipv4s), "arp_tha": draw(macs)}
    if kind == 0x86DD:
        found |= {"ipv6_src": "2001:db8::1", "ipv6_dst": ("2001:db8::", "ffff:ffff::"), "ipv6_flabel": 0x12345}
    if kind == 0x8847:
        found |= {"mpls_label": draw(st.integers(0, 2**20 - 1)), "mpls_tc": 3, "mpls_bos": 1}
    if kind in (0x0800, 0x86DD):
        proto = draw(st.sampled_from([6, 17, 132]))
        name = {6: "tcp", 17: "udp", 132: "sctp"}[proto]
        found |= {"ip_proto": proto, f"{name}_src": draw(st.integers(0, 65535)), f"{name}_dst": 80}
    return found


def _normal(match: Any) -> dict[str, Any]:
    """An OFPMatch's fields, with masks that cover less than the value taken off it."""
    return dict(match.items())


@settings(max_examples=200)
@given(oxm_fields())
def test_matches_of_1_3(wanted: dict[str, Any]) -> None:
    theirs = p13.OFPMatch(**wanted)
    buffer = bytearray()
    theirs.serialize(buffer, 0)
    match, end = decode_13(memoryview(bytes(buffer)), 0)
    assert end == len(buffer)
    ours = encode_13(match)
    again = p13.OFPMatch.parser(ours, 0)
    exact = {name for name, value in wanted.items() if not isinstance(value, tuple)}
    assert {name: again[name] for name in exact} == {name: wanted[name] for name in exact}
    assert set(_normal(again)) == set(wanted)
    assert decode_13(memoryview(ours), 0)[0] == match


@settings(max_examples=100)
@given(st.integers(0, 2**22 - 1), st.sampled_from([0x0800, 0x0806, 0x1234]), st.sampled_from([1, 6, 17, 89]))
def test_matches_of_1_0(wildcards: int, kind: int, proto: int) -> None:
    theirs = p10.OFPMatch(
        wildcards, in_port=3, dl_src=b"\x02\0\0\0\0\1", dl_dst=b"\x02\0\0\0\0\2", dl_vlan=5, dl_vlan_pcp=2,
        dl_type=kind, nw_tos=32, nw_proto=proto, nw_src=0x0A000001, nw_dst=0x0A000002, tp_src=1000, tp_dst=2000,
    )  # fmt: skip
    buffer = bytearray()
    theirs.serialize(buffer, 0)
    match = decode_10(bytes(buffer), 0)
    assert decode_10(encode_10(match), 0) == match
    again = p10.OFPMatch.parse(encode_10(match), 0)
    if not wildcards & o10.OFPFW_IN_PORT:
        assert again.in_port == 3
    if not wildcards & (o10.OFPFW_DL_TYPE | o10.OFPFW_NW_PROTO | o10.OFPFW_TP_DST) and (kind, proto) == (0x0800, 17):
        assert (again.tp_dst, again.nw_proto, again.dl_type) == (2000, 17, 0x0800)


def test_flow_mods_and_statistics_of_1_3(host: FakeHost) -> None:
    actions = [
        p13.OFPActionSetField(eth_dst="02:00:00:00:00:09"), p13.OFPActionDecNwTtl(), p13.OFPActionPushVlan(0x8100),
        p13.OFPActionSetField(vlan_vid=0x1005), p13.OFPActionOutput(2), p13.OFPActionOutput(o13.OFPP_CONTROLLER, 128),
    ]  # fmt: skip
    instructions = [
        p13.OFPInstructionActions(o13.OFPIT_APPLY_ACTIONS, actions),
        p13.OFPInstructionWriteMetadata(5, 0xFF),
        p13.OFPInstructionGotoTable(4),
    ]
    match = p13.OFPMatch(in_port=1, eth_type=0x0800, ip_proto=6, tcp_dst=80)
    mod = p13.OFPFlowMod(V13, 0x1234, 0, 3, o13.OFPFC_ADD, 10, 20, 77, o13.OFP_NO_BUFFER, match=match,
                         flags=o13.OFPFF_SEND_FLOW_REM, instructions=instructions)  # fmt: skip
    request = p13.OFPFlowStatsRequest(V13, 0, 3, o13.OFPP_ANY, o13.OFPG_ANY, 0, 0, p13.OFPMatch())
    answers = parsed(host.talk(bytes_of(mod) + bytes_of(request)))
    (flow,) = answers[-1].body
    assert (flow.table_id, flow.priority, flow.cookie, flow.idle_timeout, flow.hard_timeout) == (3, 77, 0x1234, 10, 20)
    assert dict(flow.match.items()) == {"in_port": 1, "eth_type": 0x0800, "ip_proto": 6, "tcp_dst": 80}
    assert [type(each) for each in flow.instructions] == [type(each) for each in instructions]
    assert [type(each) for each in flow.instructions[0].actions] == [type(each) for each in actions]
    delete = p13.OFPFlowMod(V13, table_id=o13.OFPTT_ALL, command=o13.OFPFC_DELETE, out_port=o13.OFPP_ANY,
                            out_group=o13.OFPG_ANY, match=p13.OFPMatch())  # fmt: skip
    assert parsed(host.talk(bytes_of(delete) + bytes_of(request)))[-1].body == []


def test_every_multipart_request_of_1_3_has_an_answer_that_can_be_read(host: FakeHost) -> None:
    bucket = p13.OFPBucket(5, o13.OFPP_ANY, o13.OFPG_ANY, [p13.OFPActionOutput(2)])
    band = p13.OFPMeterBandDrop(100, 10)
    mods = [
        p13.OFPGroupMod(V13, o13.OFPGC_ADD, o13.OFPGT_SELECT, 9, [bucket]),
        p13.OFPMeterMod(V13, o13.OFPMC_ADD, o13.OFPMF_KBPS | o13.OFPMF_BURST, 3, [band]),
    ]
    requests = [
        p13.OFPDescStatsRequest(V13, 0),
        p13.OFPAggregateStatsRequest(V13, 0, o13.OFPTT_ALL, o13.OFPP_ANY, o13.OFPG_ANY, 0, 0, p13.OFPMatch()),
        p13.OFPTableStatsRequest(V13, 0),
        p13.OFPPortStatsRequest(V13, 0, o13.OFPP_ANY),
        p13.OFPQueueStatsRequest(V13, 0, o13.OFPP_ANY, o13.OFPQ_ALL),
        p13.OFPGroupStatsRequest(V13, 0, o13.OFPG_ALL),
        p13.OFPGroupDescStatsRequest(V13, 0),
        p13.OFPGroupFeaturesStatsRequest(V13, 0),
        p13.OFPMeterStatsRequest(V13, 0, o13.OFPM_ALL),
        p13.OFPMeterConfigStatsRequest(V13, 0, o13.OFPM_ALL),
        p13.OFPMeterFeaturesStatsRequest(V13, 0),
        p13.OFPTableFeaturesStatsRequest(V13, 0),
        p13.OFPPortDescStatsRequest(V13, 0),
    ]
    answers = parsed(host.talk(b"".join(bytes_of(each) for each in [*mods, *requests])))
    assert not [each for each in answers if each.msg_type == o13.OFPT_ERROR]
    by_type: dict[int, list[Any]] = {}
    for each in answers:
        if each.msg_type == o13.OFPT_MULTIPART_REPLY:
            by_type.setdefault(each.type, []).append(each)
    assert set(by_type) == {each.type for each in requests}
    (group,) = by_type[o13.OFPMP_GROUP_DESC][0].body
    assert (group.group_id, group.type, group.buckets[0].weight) == (9, o13.OFPGT_SELECT, 5)
    (meter,) = by_type[o13.OFPMP_METER_CONFIG][0].body
    assert (meter.meter_id, meter.bands[0].rate, meter.bands[0].burst_size) == (3, 100, 10)
    assert [port.name for port in by_type[o13.OFPMP_PORT_DESC][0].body] == [b"p1", b"p2"]
    assert sum(len(each.body) for each in by_type[o13.OFPMP_TABLE_FEATURES]) == 254


def test_the_rest_of_1_3(host: FakeHost) -> None:
    requests = [
        p13.OFPEchoRequest(V13, b"are you there"), p13.OFPFeaturesRequest(V13), p13.OFPGetConfigRequest(V13),
        p13.OFPSetConfig(V13, 0, 256), p13.OFPBarrierRequest(V13), p13.OFPRoleRequest(V13, o13.OFPCR_ROLE_MASTER, 1),
        p13.OFPGetAsyncRequest(V13), p13.OFPQueueGetConfigRequest(V13, 1),
        p13.OFPPortMod(V13, 1, "02:00:00:00:00:01", o13.OFPPC_NO_FWD, o13.OFPPC_NO_FWD, 0),
        p13.OFPPacketOut(V13, buffer_id=o13.OFP_NO_BUFFER, in_port=o13.OFPP_CONTROLLER, data=bytes(60),
                         actions=[p13.OFPActionOutput(2)]),
    ]  # fmt: skip
    answers = parsed(host.talk(b"".join(bytes_of(each) for each in requests)))
    kinds = [type(each).__name__ for each in answers]
    assert kinds == [
        "OFPHello", "OFPEchoReply", "OFPSwitchFeatures", "OFPGetConfigReply", "OFPBarrierReply", "OFPRoleReply",
        "OFPGetAsyncReply", "OFPQueueGetConfigReply",
    ]  # fmt: skip
    assert answers[1].data == b"are you there"
    assert (answers[2].datapath_id, answers[2].n_tables, answers[2].n_buffers) == (host.datapath_id, 254, 0)
    assert host.ports[1].config == o13.OFPPC_NO_FWD
    assert host.packets[-1][:2] == (bytes(60), o13.OFPP_CONTROLLER)


def test_1_0(host: FakeHost) -> None:
    actions = [p10.OFPActionVlanVid(5), p10.OFPActionSetNwDst(0x0A000009), p10.OFPActionOutput(2, 0)]
    match = p10.OFPMatch(o10.OFPFW_ALL & ~o10.OFPFW_IN_PORT & ~o10.OFPFW_DL_TYPE, in_port=1, dl_type=0x0800)
    requests = [
        p10.OFPFeaturesRequest(V10),
        p10.OFPFlowMod(V10, match, 0x55, o10.OFPFC_ADD, 5, 6, 99, flags=o10.OFPFF_SEND_FLOW_REM, actions=actions),
        p10.OFPFlowStatsRequest(V10, 0, match, 0xFF, o10.OFPP_NONE),
        p10.OFPPortStatsRequest(V10, 0, o10.OFPP_NONE),
        p10.OFPTableStatsRequest(V10, 0),
        p10.OFPDescStatsRequest(V10, 0),
        p10.OFPBarrierRequest(V10),
    ]
    answers = parsed(host.talk(b"".join(bytes_of(each) for each in requests), OF10))
    assert [port.name for port in answers[1].ports.values()] == [b"p1", b"p2"]
    (flow,) = answers[2].body
    assert (flow.priority, flow.cookie, flow.match.in_port, flow.match.dl_type) == (99, 0x55, 1, 0x0800)
    assert [type(each) for each in flow.actions] == [type(each) for each in actions]
    assert flow.actions[0].vlan_vid == 5
    assert type(answers[-1]).__name__ == "OFPBarrierReply"
    raw = b"".join(_action(each) for each in actions)
    assert to_10(from_10(memoryview(raw), 6)) == raw


def _action(made: Any) -> bytes:
    buffer = bytearray()
    made.serialize(buffer, 0)
    return bytes(buffer)


def test_what_comes_unasked() -> None:
    key = parse_match("in_port=5,reg0=7,metadata=0x9", {}).key
    found = PacketIn(0, 1, 60, bytes(range(60)), 1, 1, 4, 0, 0x77, 0, 0xFFFF, key)
    assert len(key) == KEY_SIZE
    (told,) = parsed(packet_in(OF13, STANDARD, found, b""))
    assert (told.table_id, told.cookie, told.reason, told.total_len, told.data) == (4, 0x77, 1, 60, bytes(range(60)))
    assert told.match["in_port"] == 5
    assert told.match["metadata"] == 9
    (told,) = parsed(packet_in(OF10, STANDARD, found, b""))
    assert (told.in_port, told.reason, told.data) == (5, 1, bytes(range(60)))
    for version in (OF10, OF13):
        (told,) = parsed(ports.status(version, ports.MODIFIED, ports.OfPort(3, "eth3", "02:00:00:00:00:03", False)))
        assert (told.desc.port_no, told.desc.name.rstrip(b"\0"), told.reason) == (3, b"eth3", ports.MODIFIED)


def test_errors_name_what_was_wrong(host: FakeHost) -> None:
    bad = struct.pack("!HHI", 9, 8, 0)  # an instruction of a type that there is none of
    body = struct.pack("!QQBBHHHIIIH2x", 0, 0, 0, 0, 0, 0, 1, 0xFFFFFFFF, 0, 0, 0) + struct.pack("!HH4x", 1, 4) + bad
    (_hello, error) = parsed(host.talk(message(OF13, Type.FLOW_MOD, 9, body)))
    assert (error.type, error.code, error.xid) == (o13.OFPET_BAD_INSTRUCTION, o13.OFPBIC_UNKNOWN_INST, 9)
    (_hello, error) = parsed(host.talk(message(OF13, Type.PACKET_IN, 9)))
    assert (error.type, error.code) == (o13.OFPET_BAD_REQUEST, o13.OFPBRC_BAD_TYPE)
