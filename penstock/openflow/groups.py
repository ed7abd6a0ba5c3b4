"""Group-mods carried out, and what there is to tell of groups. Of groups there are as many as counters.

OpenFlow 1.3.5, sections 7.3.4.2 and 7.3.5.6 to 7.3.5.9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from penstock.engine.group_tables import Bucket
from penstock.machine import monotonic_ns
from penstock.openflow.action_wire import Kind, apply_instruction
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.group_mod import (
    ADD,
    BAD_COMMAND,
    BAD_TYPE,
    BAD_WATCH,
    BUCKETS_MAX,
    CHAINED_GROUP,
    DELETE,
    FAST_FAILOVER,
    GROUP_ALL,
    GROUP_ANY,
    GROUP_EXISTS,
    GROUP_MAX,
    INDIRECT,
    INVALID_GROUP,
    LOOP,
    MODIFY,
    OUT_OF_BUCKETS,
    SELECT,
    UNKNOWN_GROUP,
    GroupMod,
    group_error,
    split_buckets,
)
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import duration

_ACTION_BITS = sum(1 << each for each in Kind if each != Kind.EXPERIMENTER)


def group_mod(bridge: OpenFlowBridge, transaction: Transaction, mod: GroupMod) -> None:
    """Carry out a group-mod in a transaction. Raises OpenFlowError."""
    known = mod.number in bridge.groups
    if mod.command == DELETE:
        if mod.number == GROUP_ALL:
            transaction.remove_groups(list(bridge.groups.numbers()))
        elif known:
            _check_unchained(bridge, mod.number)
            transaction.remove_groups([mod.number])
        return
    if mod.command not in (ADD, MODIFY):
        raise group_error(BAD_COMMAND, f"group-mod command {mod.command} is unknown")
    if mod.number >= GROUP_MAX:
        raise group_error(INVALID_GROUP, f"group number {mod.number:#x} is reserved")
    if mod.command == ADD and known:
        raise group_error(GROUP_EXISTS, f"group {mod.number} exists already")
    if mod.command == MODIFY and not known:
        raise group_error(UNKNOWN_GROUP, f"group {mod.number} does not exist")
    if mod.kind > FAST_FAILOVER:
        raise group_error(BAD_TYPE, f"group type {mod.kind} is unknown")
    parts = list(split_buckets(mod.buckets))
    if len(parts) > BUCKETS_MAX:
        raise group_error(OUT_OF_BUCKETS, f"{len(parts)} buckets: {BUCKETS_MAX} are the most")
    if mod.kind == INDIRECT and len(parts) != 1:
        raise group_error(INVALID_GROUP, f"an indirect group has one bucket, not {len(parts)}")
    for weight, _, watched, actions in parts:
        if mod.kind != SELECT and weight:
            raise group_error(INVALID_GROUP, f"a weight of {weight} has no meaning but in a select group")
        named = bridge.programs.compiled(apply_instruction(actions)).groups | ({watched} - {GROUP_ANY})
        if mod.number in bridge.reachable_groups(named):
            raise group_error(LOOP, f"group {mod.number} would lead to itself")
        if watched != GROUP_ANY and not bridge.groups.address(watched):
            raise group_error(BAD_WATCH, f"watched group {watched} does not exist")
    buckets = [
        Bucket(bridge.programs.for_any(apply_instruction(actions)), weight, port, bridge.groups.address(watched))
        for weight, port, watched, actions in parts
    ]
    transaction.put_group(mod.number, mod.kind, buckets, mod.buckets)


def _check_unchained(bridge: OpenFlowBridge, number: int) -> None:
    for other in bridge.groups.numbers():
        if other != number and number in bridge.named_groups(other):
            raise group_error(CHAINED_GROUP, f"group {number} is named by group {other}")


def group_stats(bridge: OpenFlowBridge, body: memoryview) -> Iterator[bytes]:
    """ofp_group_stats of the groups that a request asks for."""
    references = bridge.group_references()
    for number in _wanted_groups(bridge, body):
        counts = bridge.groups.bucket_counts(number)
        spent = int(monotonic_ns()) - bridge.groups.created(number)
        packets, octets = bridge.groups.count(number)
        head = struct.pack(
            "!H2xII4xQQII", 40 + 16 * len(counts), number, references.get(number, 0), packets, octets,
            *duration(spent),
        )  # fmt: skip
        yield head + b"".join(struct.pack("!QQ", *each) for each in counts)


def group_descriptions(bridge: OpenFlowBridge) -> Iterator[bytes]:
    """ofp_group_desc of every group."""
    for number in bridge.groups.numbers():
        kind, source = bridge.groups.describe(number)
        yield struct.pack("!HBxI", 8 + len(source), kind, number) + source


def group_features() -> bytes:
    """ofp_group_features."""
    capabilities = 1 | 2 | 4 | 8  # weights, liveness, chaining, and loops are refused
    return struct.pack("!II4I4I", 0xF, capabilities, *[GROUP_MAX] * 4, *[_ACTION_BITS] * 4)


def _wanted_groups(bridge: OpenFlowBridge, body: memoryview) -> Sequence[int]:
    (number,) = struct.unpack_from("!I", body)
    if number in (GROUP_ALL, GROUP_ANY):
        return list(bridge.groups.numbers())
    return [number] if number in bridge.groups else []
