"""Meter-mods: decoded, checked and carried out, and what there is to tell of meters.

OpenFlow 1.3.5, sections 7.3.4.4 and 7.3.5.11 to 7.3.5.13.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.engine.group_tables import Band
from penstock.machine import monotonic_ns
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import BAD_LEN, ErrorType, OpenFlowError, duration

ADD, MODIFY, DELETE = range(3)
METER_MAX, METER_ALL = 0xFFFF0000, 0xFFFFFFFF
KBPS, PKTPS, BURST, STATS = 1, 2, 4, 8
DROP, DSCP_REMARK = 1, 2
METER_EXISTS, INVALID_METER, UNKNOWN_METER, BAD_METER_COMMAND, BAD_FLAGS, BAD_RATE, BAD_BAND, BAD_BAND_VALUE, FULL = (
    1, 2, 3, 4, 5, 6, 8, 9, 11,
)  # fmt: skip
BANDS_MAX, METERS_MAX = 8, 65536


def _meter_error(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.METER_MOD_FAILED, code, why)


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


def meter_mod(bridge: OpenFlowBridge, transaction: Transaction, mod: MeterMod) -> None:
    """Carry out a meter-mod in a transaction. Raises OpenFlowError."""
    known = mod.number in bridge.meters
    if mod.command == DELETE:
        if mod.number == METER_ALL:
            transaction.remove_meters(list(bridge.meters.numbers()))
        elif known:
            transaction.remove_meters([mod.number])
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
    transaction.put_meter(mod.number, mod.flags or KBPS, not mod.flags & PKTPS, bands)


def _wanted_meters(bridge: OpenFlowBridge, body: memoryview) -> Sequence[int]:
    (number,) = struct.unpack_from("!I", body)
    if number == METER_ALL:
        return list(bridge.meters.numbers())
    if number not in bridge.meters:
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
            *duration(spent),
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
