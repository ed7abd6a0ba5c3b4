"""Flows, groups and meters as text, in the notation of ovs-ofctl(8)."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.engine.flow_tables import TABLES, FlowEntry
from penstock.machine import monotonic_ns
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import (
    ALL_TABLES,
    ANY_GROUP,
    ANY_PORT,
    CHECK_OVERLAP,
    NO_BYTE_COUNTS,
    NO_PACKET_COUNTS,
    RESET_COUNTS,
    SEND_FLOW_REM,
    FlowMod,
    Select,
)
from penstock.openflow.group_mod import ALL, FAST_FAILOVER, GROUP_ANY, INDIRECT, SELECT, split_buckets
from penstock.openflow.match import Builder, Match
from penstock.openflow.meters import BURST, PKTPS
from penstock.openflow.text_actions import parse_instructions
from penstock.openflow.text_match import TextError, add_field, parse_port, show_match, show_port, split
from penstock.openflow.text_parts import number
from penstock.openflow.text_shown import show_actions, show_instructions
from penstock.openflow.wire import NANOSECONDS

DEFAULT_PRIORITY = 0x8000
FLAGS = {
    "send_flow_rem": SEND_FLOW_REM,
    "check_overlap": CHECK_OVERLAP,
    "reset_counts": RESET_COUNTS,
    "no_packet_counts": NO_PACKET_COUNTS,
    "no_byte_counts": NO_BYTE_COUNTS,
}
_LIMITS = {
    "table": TABLES - 1,
    "priority": 0xFFFF,
    "idle_timeout": 0xFFFF,
    "hard_timeout": 0xFFFF,
    "importance": 0xFFFF,
}
_IGNORED = {"duration", "n_packets", "n_bytes", "idle_age", "hard_age"}
GROUP_TYPES = {ALL: "all", SELECT: "select", INDIRECT: "indirect", FAST_FAILOVER: "ff"}


def parse_flow(text: str, names: Mapping[str, int]) -> FlowMod:
    """The flow-mod that adds a flow. Raises TextError."""
    head, separator, actions = _cut(text)
    if not separator:
        raise TextError(f"flow '{text}' has no actions=")
    made = Builder()
    mod = FlowMod(0, 0, DEFAULT_PRIORITY, made.match())
    for key, value in split(head):
        if key in FLAGS and value is None:
            mod.flags |= FLAGS[key]
        elif key in _LIMITS:
            _set_number(mod, key, value)
        elif key == "cookie":
            mod.cookie = number(value or "", "cookie", (1 << 64) - 1)
        elif key not in _IGNORED and not add_field(made, key, value, names):
            raise TextError(f"flow '{text}': '{key}' is no match field and no setting")
    mod.match = made.match()
    mod.instructions = parse_instructions(actions, names)
    return mod


def _cut(text: str) -> tuple[str, str, str]:
    for word in ("actions=", "action="):
        at = text.find(word)
        if at >= 0:
            return text[:at], word, text[at + len(word) :]
    return text, "", ""


def _set_number(mod: FlowMod, key: str, text: str | None) -> None:
    value = number(text or "", key, _LIMITS[key])
    setattr(mod, {"idle_timeout": "idle", "hard_timeout": "hard"}.get(key, key), value)


def parse_select(text: str, names: Mapping[str, int]) -> Select:
    """Which flows are meant: a match, table, cookie/mask, out_port and out_group. Raises TextError."""
    made = Builder()
    table, cookie, cookie_mask, out_port, out_group = ALL_TABLES, 0, 0, ANY_PORT, ANY_GROUP
    for key, value in split(text):
        if key == "table":
            table = number(value or "", key, TABLES - 1)
        elif key == "cookie":
            text, _, mask = (value or "").partition("/")
            cookie = number(text, key, (1 << 64) - 1)
            cookie_mask = (1 << 64) - 1 if mask in ("", "-1") else number(mask, key, (1 << 64) - 1)
        elif key == "out_port":
            out_port = parse_port(value or "", names)
        elif key == "out_group":
            out_group = number(value or "", key, ANY_GROUP)
        elif not add_field(made, key, value, names):
            raise TextError(f"'{key}' is no match field")
    return Select(table, made.match(), cookie, cookie_mask, out_port, out_group)


def show_flow(bridge: OpenFlowBridge, entry: FlowEntry, numbers: Mapping[int, str]) -> dict[str, object]:
    """A flow in parts: for people ``text`` is all of it."""
    now = int(monotonic_ns())
    packets, octets, used = bridge.region.count(entry.number)
    match = ",".join(show_match(Match(entry.key, entry.mask), numbers))
    actions = show_instructions(bridge.instructions(entry), numbers)
    age = max(0, now // NANOSECONDS - (used or entry.created // NANOSECONDS))
    words = [f"cookie={entry.cookie:#x}", f"table={entry.table}", f"n_packets={packets}", f"n_bytes={octets}"]
    words += [f"idle_timeout={entry.idle}"] if entry.idle else []
    words += [f"hard_timeout={entry.hard}"] if entry.hard else []
    words += [name for name, bit in FLAGS.items() if entry.flags & bit]
    words += [f"idle_age={age}"]
    condition = ",".join([f"priority={entry.priority}"] + ([match] if match else []))
    return {
        "table": entry.table,
        "priority": entry.priority,
        "cookie": entry.cookie,
        "match": match,
        "actions": actions,
        "packets": packets,
        "bytes": octets,
        "idle_timeout": entry.idle,
        "hard_timeout": entry.hard,
        "idle_age": age,
        "duration": (now - entry.created) / NANOSECONDS,
        "text": f"{', '.join(words)}, {condition} actions={actions}",
    }


def show_group(bridge: OpenFlowBridge, number: int, numbers: Mapping[int, str]) -> dict[str, object]:
    """A group in parts."""
    kind, source = bridge.groups.describe(number)
    packets, octets = bridge.groups.count(number)
    buckets = []
    for (weight, port, group, actions), count in zip(
        split_buckets(source), bridge.groups.bucket_counts(number), strict=True
    ):
        parts = [f"weight:{weight}"] if kind == SELECT else []
        parts += [f"watch_port:{show_port(port, numbers)}"] if port != ANY_PORT else []
        parts += [f"watch_group:{group}"] if group != GROUP_ANY else []
        parts.append("actions=" + (",".join(show_actions(memoryview(actions), numbers)) or "drop"))
        buckets.append({"text": ",".join(parts), "packets": count[0], "bytes": count[1]})
    return {"group": number, "type": GROUP_TYPES[kind], "packets": packets, "bytes": octets, "buckets": buckets}


def show_meter(bridge: OpenFlowBridge, number: int) -> dict[str, object]:
    """A meter in parts."""
    flags, bands = bridge.meters.describe(number)
    packets, octets = bridge.meters.count(number)
    shown = []
    for band, count in zip(bands, bridge.meters.band_counts(number), strict=True):
        text = f"type={'drop' if band.kind == 1 else 'dscp_remark'} rate={band.rate}"
        text += f" burst_size={band.burst}" if flags & BURST else ""
        text += f" prec_level={band.level}" if band.kind == 2 else ""
        shown.append({"text": text, "packets": count[0], "bytes": count[1]})
    unit = "pktps" if flags & PKTPS else "kbps"
    return {"meter": number, "unit": unit, "packets": packets, "bytes": octets, "bands": shown}
