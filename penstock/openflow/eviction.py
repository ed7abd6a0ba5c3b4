"""Which flow makes room for another in a table that is full: as Open vSwitch's ofproto-provider.h has it.

Of the flows that have a time-out those of the largest group are looked at: of these, the one of the least importance
goes, and among equals the one that would end soonest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.flow_region import FlowRegion
from penstock.engine.flow_tables import FlowEntry
from penstock.openflow.match import in_key
from penstock.openflow.wire import NANOSECONDS
from penstock.packet.fields import BY_NAME


@dataclass(frozen=True)
class Limit:
    """What holds for a flow table: see spec.TableSpec."""

    flows: int
    evicts: bool
    groups: tuple[str, ...] = ()


def choose(region: FlowRegion, flows: Sequence[FlowEntry], groups: tuple[str, ...]) -> FlowEntry | None:
    """The flow that goes; None when none has a time-out."""
    by_group: dict[tuple[int, int], list[FlowEntry]] = {}
    bits = 0
    for name in groups:
        bits |= (1 << BY_NAME[name].bits) - 1 << in_key(BY_NAME[name])
    for flow in flows:
        if flow.idle or flow.hard:
            group = int.from_bytes(flow.key, "big") & bits, int.from_bytes(flow.mask, "big") & bits
            by_group.setdefault(group, []).append(flow)
    if not by_group:
        return None
    largest = max(by_group.values(), key=len)
    return min(largest, key=lambda flow: (flow.importance, _ends(region, flow)))


def _ends(region: FlowRegion, flow: FlowEntry) -> int:
    """When a flow ends if no packet comes, in CLOCK_MONOTONIC nanoseconds."""
    used = region.count(flow.number)[2] * NANOSECONDS
    times = [flow.modified + flow.hard * NANOSECONDS] if flow.hard else []
    times += [max(used, flow.modified) + flow.idle * NANOSECONDS] if flow.idle else []
    return min(times)
