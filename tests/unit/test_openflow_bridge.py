"""What a bridge takes and refuses, what a bundle comes to, and dumps of tables that change meanwhile."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

import penstock.datapath.pipeline.program as p
from penstock.engine.group_tables import Band
from penstock.openflow import stats
from penstock.openflow.action_wire import apply_instruction, nicira
from penstock.openflow.actions10 import to_10
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import ALL_TABLES, Command, FlowMod, Select
from penstock.openflow.group_mod import ADD, ALL, BUCKET, DELETE, FAST_FAILOVER, GROUP_ALL, GROUP_ANY, MODIFY, GroupMod
from penstock.openflow.groups import group_mod
from penstock.openflow.match import EMPTY
from penstock.openflow.meters import BURST, KBPS, MeterMod, meter_mod
from penstock.openflow.text_actions import parse_actions, parse_instructions
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.text_match import parse_match
from penstock.openflow.text_shown import show_actions
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import OF13, ErrorType, OpenFlowError, Raw, Stream
from tests.unit.openflow_support import FakeHost


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


@pytest.fixture
def host(shared: FakeHost) -> Iterator[FakeHost]:
    yield shared
    shared.bridge.flow_mod(FlowMod(Command.DELETE, ALL_TABLES, 0, EMPTY))
    for _ in range(4):
        shared.region.run_deferred()


def refusal(host: FakeHost, *texts: str) -> ErrorType:
    """The kind of error that flows are refused with, as one transaction."""
    with pytest.raises(OpenFlowError) as caught:
        host.bridge.flow_mods([parse_flow(text, {}) for text in texts])
    return caught.value.kind


MEMBERS = ",".join(str(number) for number in range(1, 301))
DEEP = "clone(" * 20 + "output:1" + ")" * 20


@pytest.mark.parametrize(
    "actions",
    [
        "resubmit(,254)",
        f"bundle(eth_src,0,hrw,ofport,members:{MEMBERS})",
        DEEP,
        "conjunction(1,1/2),output:1",
        "output:1,conjunction(1,1/2)",
        "write_actions(resubmit(,5))",
        "write_actions(clone(output:1))",
        "learn(table=254,NXM_OF_ETH_DST[])",
        "goto_table:254",
        "mod_nw_dst:10.0.0.1",
        "set_field:80->tcp_dst",
        "move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]",
    ],
)
def test_what_workers_could_not_run_or_no_packet_has_is_refused(host: FakeHost, actions: str) -> None:
    # The reader of texts has limits of its own: the table's number is put into the bytes.
    mod = parse_flow(f"actions={actions.replace('254', '253')}", {})
    if "254" in actions:
        data = bytearray(mod.instructions)
        data[data.rindex(253)] = 254
        mod.instructions = bytes(data)
    with pytest.raises(OpenFlowError) as caught:
        host.bridge.flow_mod(mod)
    assert caught.value.kind in (ErrorType.BAD_ACTION, ErrorType.BAD_INSTRUCTION)


def test_a_packet_out_is_in_table_0(host: FakeHost) -> None:
    """Resubmitting "to the table that one is in" has to name a table that there is."""
    program = host.bridge.programs.for_any(apply_instruction(nicira(1, struct.pack("!H4x", 2))))
    words = host.region.operations(program)
    assert (words[0] & 255, words[0] >> 16 & 0xFFFF) == (p.RESUBMIT, 0)


def test_tables_are_those_that_are_told_of(host: FakeHost) -> None:
    host.bridge.flow_mod(parse_flow("table=253,actions=drop", {}))
    mod = parse_flow("table=253,actions=drop", {})
    mod.table = 254
    with pytest.raises(OpenFlowError, match="table 254 cannot hold flows"):
        host.bridge.flow_mod(mod)


def test_the_largest_meter_there_can_be(host: FakeHost) -> None:
    most = 0xFFFFFFFF
    with Transaction(host.bridge) as transaction:
        meter_mod(host.bridge, transaction, MeterMod(0, KBPS | BURST, 7, (Band(1, most, most, 0),)))
    assert host.bridge.meters.describe(7)[1] == [Band(1, most, most, 0)]
    with Transaction(host.bridge) as transaction:
        transaction.remove_meters([7])


def flows(host: FakeHost) -> list[tuple[int, int]]:
    found = [entry for some in host.bridge.flows(Select(ALL_TABLES, EMPTY)) for entry in some]
    return sorted((entry.priority, entry.cookie) for entry in found)


def test_a_transaction_sees_what_it_did_itself(host: FakeHost) -> None:
    tcp = parse_match("tcp", {})
    added = [parse_flow(f"cookie={number},priority={number},tcp,actions=output:1", {}) for number in (1, 2, 3)]
    host.bridge.flow_mods([*added, FlowMod(Command.DELETE_STRICT, 0, 2, tcp)])
    assert flows(host) == [(1, 1), (3, 3)]
    again = parse_flow("cookie=9,priority=9,tcp,actions=output:1", {})
    to_2 = apply_instruction(parse_actions("output:2", {}))
    host.bridge.flow_mods([again, FlowMod(Command.MODIFY, 0, 0, tcp, to_2)])
    changed = [entry for some in host.bridge.flows(Select(0, tcp)) for entry in some]
    assert [host.bridge.instructions(entry) for entry in changed] == [to_2] * 3
    host.bridge.flow_mods(
        [parse_flow("priority=5,tcp,actions=drop", {}), FlowMod(Command.DELETE, ALL_TABLES, 0, EMPTY)]
    )
    assert flows(host) == []
    assert host.tables.count == 0
    assert refusal(host, "priority=4,in_port=1,actions=drop", "check_overlap,priority=4,tcp,actions=drop")
    assert flows(host) == []


def flows_of(messages: list[Raw]) -> list[tuple[int, bytes]]:
    """Cookie and instructions of each flow in answers of 1.3."""
    found = []
    for raw in messages:
        body = raw.body[8:]
        while body:
            length, cookie = struct.unpack_from("!H", body)[0], struct.unpack_from("!Q", body, 24)[0]
            match_length = struct.unpack_from("!H", body, 50)[0]
            found.append((cookie, bytes(body[48 + (match_length + 7) // 8 * 8 : length])))
            body = body[length:]
    return found


def test_a_dump_goes_on_while_its_flows_go(host: FakeHost) -> None:
    """Between two messages of a long answer others have a turn: what they remove is freed and its memory used again."""
    count = 10_000
    host.bridge.flow_mods(
        [parse_flow(f"cookie=1,udp,nw_src=10.0.{n >> 8}.{n & 255},actions=output:1", {}) for n in range(count)]
    )
    body = struct.pack("!HH4xB3xII4xQQ", stats.FLOW, 0, 255, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0) + struct.pack("!HH4x", 1, 4)
    replies = host.replies(body, OF13)
    first = next(replies)
    host.bridge.flow_mod(FlowMod(Command.DELETE, ALL_TABLES, 0, EMPTY))
    for _ in range(4):
        host.region.run_deferred()
    host.bridge.flow_mod(parse_flow("cookie=2,tcp,actions=output:2", {}))
    messages = Stream().feed(first + b"".join(replies))
    assert messages[-1].body[2:4] == b"\0\0", "the last says that there are no more"
    to = {1: parse_instructions("output:1", {}), 2: parse_instructions("output:2", {})}
    told = flows_of(messages)
    assert len(told) > len(flows_of(messages[:1]))
    assert all(instructions == to[cookie] for cookie, instructions in told)


@pytest.mark.parametrize(
    ("action", "loads"),
    [
        ("set_field:0x0a05/0x0f0f->reg0", ["load:0x5->NXM_NX_REG0[0..3]", "load:0xa->NXM_NX_REG0[8..11]"]),
        ("set_field:0x80000000/0x80000001->reg1", ["load:0x0->NXM_NX_REG1[0]", "load:0x1->NXM_NX_REG1[31]"]),
        (
            "set_field:2001:db8::1->ipv6_dst",
            ["load:0x1->NXM_NX_IPV6_DST[0..63]", "load:0x20010db800000000->NXM_NX_IPV6_DST[64..127]"],
        ),
    ],
)
def test_what_1_0_cannot_set_is_told_as_loads_of_the_very_bits(action: str, loads: list[str]) -> None:
    data = to_10(parse_instructions(action, {}))
    assert show_actions(memoryview(data), {}) == loads


def bucket(actions: str, port: int = 0xFFFFFFFF, group: int = GROUP_ANY) -> bytes:
    octets = parse_actions(actions, {})
    return BUCKET.pack(BUCKET.size + len(octets), 0, port, group) + octets


def change(bridge: OpenFlowBridge, *mods: GroupMod | FlowMod) -> None:
    """Carry these out as one transaction."""
    with Transaction(bridge) as transaction:
        for mod in mods:
            if isinstance(mod, GroupMod):
                group_mod(bridge, transaction, mod)
            else:
                transaction.flow_mod(mod)


def test_groups_that_would_lead_to_themselves_are_refused(host: FakeHost) -> None:
    bridge = host.bridge
    try:
        change(bridge, GroupMod(ADD, ALL, 1, bucket("output:1")))
        change(bridge, GroupMod(ADD, FAST_FAILOVER, 2, bucket("output:2", group=1)))
        change(bridge, GroupMod(ADD, ALL, 3, bucket("group:2")))
        assert bridge.reachable_groups({3}) == {1, 2, 3}
        for kind, buckets in ((ALL, bucket("group:3")), (FAST_FAILOVER, bucket("output:1", group=2))):
            with pytest.raises(OpenFlowError, match="group 1 would lead to itself"):
                change(bridge, GroupMod(MODIFY, kind, 1, buckets))
        for number, other in ((1, 2), (2, 3)):
            with pytest.raises(OpenFlowError, match=f"group {number} is named by group {other}"):
                change(bridge, GroupMod(DELETE, 0, number))
        stored = len(bridge.region.programs())
        assert bridge.named_groups(2) == {1}
        assert len(bridge.region.programs()) == stored
    finally:
        change(bridge, GroupMod(DELETE, 0, GROUP_ALL))


def test_a_transaction_of_groups_and_flows_is_made_whole_or_not_at_all(host: FakeHost) -> None:
    bridge = host.bridge

    def groups() -> dict[int, bytes]:
        return {number: bridge.groups.describe(number)[1] for number in bridge.groups.numbers()}

    def use(number: int) -> FlowMod:
        return parse_flow(f"priority={number},actions=group:{number}", {})

    try:
        change(bridge, GroupMod(ADD, ALL, 1, bucket("output:1")), use(1))
        before, known = groups(), flows(host)
        with pytest.raises(OpenFlowError, match="group 9 does not exist"):
            change(
                bridge,
                GroupMod(MODIFY, ALL, 1, bucket("output:2")),
                GroupMod(MODIFY, ALL, 1, bucket("output:3")),
                GroupMod(ADD, ALL, 2, bucket("group:1")),
                use(2),
                GroupMod(DELETE, 0, 2),
                GroupMod(ADD, ALL, 2, bucket("output:4")),
                GroupMod(DELETE, 0, 1),
                use(9),
            )
        assert (groups(), flows(host)) == (before, known)
        with pytest.raises(OpenFlowError, match="group 1 does not exist"):
            change(bridge, GroupMod(DELETE, 0, 1), use(1))
        assert (groups(), flows(host)) == (before, known)
        change(bridge, GroupMod(DELETE, 0, 1), GroupMod(ADD, ALL, 1, bucket("output:4")), use(3 - 2))
        assert groups() == {1: bucket("output:4")}
        assert len(flows(host)) == 1
        change(bridge, GroupMod(DELETE, 0, 1))
        assert (groups(), flows(host)) == ({}, [])
    finally:
        change(bridge, GroupMod(DELETE, 0, GROUP_ALL))


def test_refused_transactions_leave_no_memory_in_use(host: FakeHost) -> None:
    bridge, region = host.bridge, host.bridge.region

    def refused() -> None:
        with pytest.raises(OpenFlowError):
            change(
                bridge,
                GroupMod(ADD, ALL, 5, bucket("output:1") + bucket("output:2")),
                parse_flow("priority=5,actions=group:5", {}),
                GroupMod(ADD, ALL, 5, b""),
            )
        for _ in range(6):
            region.run_deferred()

    refused()
    used = int(region.header["used"])
    for _ in range(10):
        refused()
    assert int(region.header["used"]) == used
