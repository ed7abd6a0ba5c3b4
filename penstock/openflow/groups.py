"""Group-mods and meter-mods: decoded, checked and carried out; their statistics and descriptions.

OpenFlow 1.3.5, sections 7.3.4.2, 7.3.4.4 and 7.3.5.6 to 7.3.5.13. Of groups there are as many as counters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.engine.group_tables import Band, Bucket
from penstock.machine import monotonic_ns
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.wire import BAD_LEN, ErrorType, OpenFlowError

ADD, MODIFY, DELETE = range(3)
GROUP_MAX, GROUP_ALL, GROUP_ANY = 0xFFFFFF00, 0xFFFFFFFC, 0xFFFFFFFF
ALL, SELECT, INDIRECT, FAST_FAILOVER = range(4)
BUCKET = struct.Struct("!HHII4x")
GROUP_EXISTS, INVALID_GROUP, OUT_OF_BUCKETS, LOOP, UNKNOWN_GROUP, CHAINED_GROUP, BAD_TYPE, BAD_COMMAND = (
    0, 1, 4, 7, 8, 9, 10, 11,
)  # fmt: skip
BAD_BUCKET, BAD_WATCH = 12, 13
BUCKETS_MAX = 1024
ACTION_BITS = sum(1 << each for each in (0, 11, 12, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25))

METER_MAX, METER_ALL = 0xFFFF0000, 0xFFFFFFFF
KBPS, PKTPS, BURST, STATS = 1, 2, 4, 8
DROP, DSCP_REMARK = 1, 2
METER_EXISTS, INVALID_METER, UNKNOWN_METER, BAD_METER_COMMAND, BAD_FLAGS, BAD_RATE, BAD_BAND, BAD_BAND_VALUE, FULL = (
    1, 2, 3, 4, 5, 6, 8, 9, 11,
)  # fmt: skip
BANDS_MAX, METERS_MAX = 8, 65536
NANOSECONDS = 1_000_000_000


def _group_error(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.GROUP_MOD_FAILED, code, why)


def _meter_error(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.METER_MOD_FAILED, code, why)


@dataclass(frozen=True, slots=True)
class GroupMod:
    """A group-mod; ``buckets`` as OpenFlow 1.3 writes them."""

    command: int
    kind: int
    number: int
    buckets: bytes = b""


def decode_group_mod(body: memoryview) -> GroupMod:
    """From the body of an OFPT_GROUP_MOD of 1.3."""
    command, kind, number = struct.unpack_from("!HBxI", body)
    return GroupMod(command, kind, number, bytes(body[8:]))


def split_buckets(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Weight, watched port, watched group and actions of each bucket."""
    at = 0
    while at < len(data):
        if len(data) - at < BUCKET.size:
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"{len(data) - at} bytes are left of the buckets")
        length, weight, port, group = BUCKET.unpack_from(data, at)
        if length < BUCKET.size or length % 8 or at + length > len(data):
            raise _group_error(BAD_BUCKET, f"a bucket of {length} bytes does not fit")
        yield weight, port, group, data[at + BUCKET.size : at + length]
        at += length


def group_mod(bridge: OpenFlowBridge, mod: GroupMod) -> None:
    """Carry out a group-mod. Raises OpenFlowError."""
    known = mod.number in bridge.groups.addresses
    if mod.command == DELETE:
        if mod.number == GROUP_ALL:
            bridge.remove_groups(list(bridge.groups.numbers()))
        elif known:
            _check_unchained(bridge, mod.number)
            bridge.remove_groups([mod.number])
        return
    if mod.command not in (ADD, MODIFY):
        raise _group_error(BAD_COMMAND, f"group-mod command {mod.command} is unknown")
    if mod.number >= GROUP_MAX:
        raise _group_error(INVALID_GROUP, f"group number {mod.number:#x} is reserved")
    if mod.command == ADD and known:
        raise _group_error(GROUP_EXISTS, f"group {mod.number} exists already")
    if mod.command == MODIFY and not known:
        raise _group_error(UNKNOWN_GROUP, f"group {mod.number} does not exist")
    if mod.kind > FAST_FAILOVER:
        raise _group_error(BAD_TYPE, f"group type {mod.kind} is unknown")
    parts = list(split_buckets(mod.buckets))
    if len(parts) > BUCKETS_MAX:
        raise _group_error(OUT_OF_BUCKETS, f"{len(parts)} buckets: {BUCKETS_MAX} are the most")
    if mod.kind == INDIRECT and len(parts) != 1:
        raise _group_error(INVALID_GROUP, f"an indirect group has one bucket, not {len(parts)}")
    buckets = []
    for weight, port, watched, actions in parts:
        if mod.kind != SELECT and weight:
            raise _group_error(INVALID_GROUP, f"a weight of {weight} has no meaning but in a select group")
        program, groups = bridge.bucket_program(actions)
        if mod.number in bridge.reachable_groups(groups | ({watched} - {GROUP_ANY})):
            raise _group_error(LOOP, f"group {mod.number} would lead to itself")
        if watched != GROUP_ANY and not bridge.groups.address(watched):
            raise _group_error(BAD_WATCH, f"watched group {watched} does not exist")
        buckets.append(Bucket(program, weight, port, bridge.groups.address(watched)))
    bridge.put_group(mod.number, mod.kind, buckets, mod.buckets)


def _check_unchained(bridge: OpenFlowBridge, number: int) -> None:
    for other in bridge.groups.numbers():
        _, source = bridge.groups.describe(other)
        for _, _, watched, actions in split_buckets(source):
            if other != number and (watched == number or number in bridge.bucket_program(actions)[1]):
                raise _group_error(CHAINED_GROUP, f"group {number} is named by group {other}")


def group_stats(bridge: OpenFlowBridge, body: memoryview) -> Iterator[bytes]:
    """ofp_group_stats of the groups that a request asks for."""
    references = bridge.group_references()
    for number in _wanted_groups(bridge, body):
        counts = bridge.groups.bucket_counts(number)
        spent = int(monotonic_ns()) - bridge.groups.created(number)
        packets, octets = bridge.groups.count(number)
        head = struct.pack(
            "!H2xII4xQQII", 40 + 16 * len(counts), number, references.get(number, 0), packets, octets,
            spent // NANOSECONDS, spent % NANOSECONDS,
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
    return struct.pack("!II4I4I", 0xF, capabilities, *[GROUP_MAX] * 4, *[ACTION_BITS] * 4)


def _wanted_groups(bridge: OpenFlowBridge, body: memoryview) -> Sequence[int]:
    (number,) = struct.unpack_from("!I", body)
    if number in (GROUP_ALL, GROUP_ANY):
        return list(bridge.groups.numbers())
    return [number] if number in bridge.groups.addresses else []


@dataclass(frozen=True, slots=True)
class MeterMod:
    """A meter-mod."""

    command: int
    flags: int
    number: int
    bands: tuple[Band, ...] = ()


def decode_meter_mod(body: memoryview) -> MeterMod:
    """From the body of an OFPT_METER_MOD. Raises OpenFlowError."""
    command, flags, number = struct.unpack_from("!HHI", body)
    bands = []
    at = 8
    while at < len(body):
        if len(body) - at < 16:
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"{len(body) - at} bytes are left of the bands")
        kind, length, rate, burst, level = struct.unpack_from("!HHIIB3x", body, at)
        if length != 16:
            raise _meter_error(BAD_BAND, f"a band of type {kind} has {length} bytes, not 16")
        if kind not in (DROP, DSCP_REMARK):
            raise _meter_error(BAD_BAND, f"band type {kind} is unknown")
        bands.append(Band(kind, rate, burst, level if kind == DSCP_REMARK else 0))
        at += length
    return MeterMod(command, flags, number, tuple(bands))


def meter_mod(bridge: OpenFlowBridge, mod: MeterMod) -> None:
    """Carry out a meter-mod. Raises OpenFlowError."""
    known = mod.number in bridge.meters.addresses
    if mod.command == DELETE:
        if mod.number == METER_ALL:
            bridge.remove_meters(list(bridge.meters.numbers()))
        elif known:
            bridge.remove_meters([mod.number])
        return
    if mod.command not in (ADD, MODIFY):
        raise _meter_error(BAD_METER_COMMAND, f"meter-mod command {mod.command} is unknown")
    if not 1 <= mod.number <= METER_MAX:
        raise _meter_error(INVALID_METER, f"meter number {mod.number:#x} is reserved")
    if mod.command == ADD and known:
        raise _meter_error(METER_EXISTS, f"meter {mod.number} exists already")
    if mod.command == MODIFY and not known:
        raise _meter_error(UNKNOWN_METER, f"meter {mod.number} does not exist")
    if mod.flags & (KBPS | PKTPS) == KBPS | PKTPS or mod.flags & ~(KBPS | PKTPS | BURST | STATS):
        raise _meter_error(BAD_FLAGS, f"meter flags {mod.flags:#x} say both units, or what there is none of")
    if len(mod.bands) > BANDS_MAX:
        raise _meter_error(FULL, f"{len(mod.bands)} bands: {BANDS_MAX} are the most")
    for band in mod.bands:
        if not band.rate:
            raise _meter_error(BAD_RATE, "a band's rate is 0")
        if band.kind == DSCP_REMARK and not 1 <= band.level <= 3:
            raise _meter_error(BAD_BAND_VALUE, f"a remark by {band.level} levels: 1 to 3 have a meaning")
    burst = bool(mod.flags & BURST)
    bands = [band if burst else Band(band.kind, band.rate, 0, band.level) for band in mod.bands]
    bridge.put_meter(mod.number, mod.flags or KBPS, not mod.flags & PKTPS, bands)


def _wanted_meters(bridge: OpenFlowBridge, body: memoryview) -> Sequence[int]:
    (number,) = struct.unpack_from("!I", body)
    if number == METER_ALL:
        return list(bridge.meters.numbers())
    if number not in bridge.meters.addresses:
        raise _meter_error(UNKNOWN_METER, f"meter {number} does not exist")
    return [number]


def meter_stats(bridge: OpenFlowBridge, body: memoryview) -> Iterator[bytes]:
    """ofp_meter_stats of the meters that a request asks for."""
    references = bridge.meter_references()
    for number in _wanted_meters(bridge, body):
        counts = bridge.meters.band_counts(number)
        spent = int(monotonic_ns()) - bridge.meters.created(number)
        packets, octets = bridge.meters.count(number)
        head = struct.pack(
            "!IH6xIQQII", number, 40 + 16 * len(counts), references.get(number, 0), packets, octets,
            spent // NANOSECONDS, spent % NANOSECONDS,
        )  # fmt: skip
        yield head + b"".join(struct.pack("!QQ", *each) for each in counts)


def meter_configs(bridge: OpenFlowBridge, body: memoryview) -> Iterator[bytes]:
    """ofp_meter_config of the meters that a request asks for."""
    for number in _wanted_meters(bridge, body):
        flags, bands = bridge.meters.describe(number)
        head = struct.pack("!HHI", 8 + 16 * len(bands), flags, number)
        yield head + b"".join(struct.pack("!HHIIB3x", b.kind, 16, b.rate, b.burst, b.level) for b in bands)


def meter_features() -> bytes:
    """ofp_meter_features."""
    kinds = 1 << DROP | 1 << DSCP_REMARK
    return struct.pack("!IIIBB2x", METERS_MAX, kinds, KBPS | PKTPS | BURST | STATS, BANDS_MAX, 0)
