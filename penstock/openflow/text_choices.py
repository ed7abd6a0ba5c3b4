"""Text of the longer of Nicira's actions: learn, multipath, bundle, conjunction, fin_timeout. See ``text_actions``."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from penstock.openflow.action_wire import Nx, nicira
from penstock.openflow.learn import (
    HEAD,
    IMMEDIATE,
    TO_LOAD,
    TO_MATCH,
    TO_OUTPUT,
    TO_SHIFT,
    decode_learn,
    immediate_size,
)
from penstock.openflow.match import port_16
from penstock.openflow.nicira import MEMBER_IN_PORT
from penstock.openflow.text_match import TextError, parse_port, parse_value, show_port, show_value, split
from penstock.openflow.text_parts import inside, number, parse_part, show_part

FIELDS = ("eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst")
LINKS = ("modulo_n", "hash_threshold", "hrw", "iter_hash")
MEMBERS = ("active_backup", "hrw")
LEARN_FLAGS = {"send_flow_rem": 1, "delete_learned": 2}
_LEARN_NUMBERS = ("idle_timeout", "hard_timeout", "priority", "cookie", "table", "fin_idle_timeout", "fin_hard_timeout")

Names = Mapping[str, int]
Numbers = Mapping[int, str]


def _choice(text: str, known: tuple[str, ...], what: str) -> int:
    if text not in known:
        raise TextError(f"{what}: '{text}' is unknown; known are {', '.join(known)}")
    return known.index(text)


def parse_conjunction(text: str, _names: Names) -> bytes:
    """conjunction(ID,CLAUSE/CLAUSES)."""
    ident, _, clause_text = inside(text).partition(",")
    clause, _, clauses = clause_text.partition("/")
    body = (
        number(clause, "conjunction: clause", 64) - 1, number(clauses, "conjunction: clauses", 64),
        number(ident, "conjunction: id", 0xFFFFFFFF),
    )  # fmt: skip
    if body[0] < 0:
        raise TextError("conjunction: clauses are counted from 1")
    return nicira(Nx.CONJUNCTION, struct.pack("!BBI", *body))


def show_conjunction(body: memoryview, _numbers: Numbers) -> str:
    """And back."""
    clause, clauses, ident = struct.unpack_from("!BBI", body)
    return f"conjunction({ident},{clause + 1}/{clauses})"


def parse_fin_timeout(text: str, _names: Names) -> bytes:
    """fin_timeout(idle_timeout=SECONDS,hard_timeout=SECONDS)."""
    found = {key: number(value or "", f"fin_timeout: {key}", 0xFFFF) for key, value in split(inside(text))}
    unknown = found.keys() - {"idle_timeout", "hard_timeout"}
    if unknown:
        raise TextError(f"fin_timeout: '{unknown.pop()}' is unknown; known are idle_timeout and hard_timeout")
    return nicira(Nx.FIN_TIMEOUT, struct.pack("!HH2x", found.get("idle_timeout", 0), found.get("hard_timeout", 0)))


def show_fin_timeout(body: memoryview, _numbers: Numbers) -> str:
    """And back."""
    idle, hard = struct.unpack_from("!HH", body)
    parts = ([f"idle_timeout={idle}"] if idle else []) + ([f"hard_timeout={hard}"] if hard else [])
    return f"fin_timeout({','.join(parts)})"


def parse_multipath(text: str, _names: Names) -> bytes:
    """multipath(FIELDS,BASIS,ALGORITHM,LINKS,ARGUMENT,FIELD[a..b])."""
    parts = [each.strip() for each in inside(text).split(",")]
    if len(parts) != 6:
        raise TextError(f"multipath{text}: as in multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[0..15])")
    wire, start, count = parse_part(parts[5])
    links = number(parts[3], "multipath: links", 0x10000)
    if not links:
        raise TextError("multipath: there is 1 link at least")
    body = struct.pack(
        "!HH2xHHI2xHI", _choice(parts[0], FIELDS, "multipath: fields"), number(parts[1], "multipath: basis", 0xFFFF),
        _choice(parts[2], LINKS, "multipath: algorithm"), links - 1, number(parts[4], "multipath: argument", 0xFFFF),
        start << 6 | count - 1, wire.header(),
    )  # fmt: skip
    return nicira(Nx.MULTIPATH, body)


def show_multipath(body: memoryview, _numbers: Numbers) -> str:
    """And back."""
    fields, basis, algorithm, last, argument, where, header = struct.unpack_from("!HH2xHHI2xHI", body)
    part = show_part(header, where >> 6, (where & 63) + 1)
    return f"multipath({FIELDS[fields]},{basis},{LINKS[algorithm]},{last + 1},{argument},{part})"


def parse_bundle(is_loaded: bool) -> Callable[[str, Names], bytes]:
    """bundle(FIELDS,BASIS,ALGORITHM,ofport,members:PORT,...), and bundle_load with a field before the members."""

    def parse(text: str, names: Names) -> bytes:
        head, separator, members = inside(text).replace("slaves:", "members:").partition("members:")
        parts = [each.strip() for each in head.strip(", ").split(",")]
        if not separator or len(parts) != 4 + is_loaded:
            raise TextError(f"bundle{text}: as in bundle(eth_src,0,hrw,ofport,members:1,2)")
        where, header = 0, 0
        if is_loaded:
            wire, start, count = parse_part(parts[4])
            where, header = start << 6 | count - 1, wire.header()
        ports = [port_16(parse_port(each.strip(), names)) for each in members.split(",") if each.strip()]
        body = struct.pack(
            "!HHHIHHI4x", _choice(parts[2], MEMBERS, "bundle: algorithm"), _choice(parts[0], FIELDS, "bundle: fields"),
            number(parts[1], "bundle: basis", 0xFFFF), MEMBER_IN_PORT, len(ports), where, header,
        )  # fmt: skip
        return nicira(Nx.BUNDLE_LOAD if is_loaded else Nx.BUNDLE, body + struct.pack(f"!{len(ports)}H", *ports))

    return parse


def show_bundle(is_loaded: bool) -> Callable[[memoryview, Numbers], str]:
    """And back."""

    def show(body: memoryview, numbers: Numbers) -> str:
        algorithm, fields, basis, _kind, count, where, header = struct.unpack_from("!HHHIHHI", body)
        ports = struct.unpack_from(f"!{count}H", body, 22)
        parts = [FIELDS[fields], str(basis), MEMBERS[algorithm], "ofport"]
        parts += [show_part(header, where >> 6, (where & 63) + 1)] if is_loaded else []
        name = "bundle_load" if is_loaded else "bundle"
        return f"{name}({','.join(parts)},members:{','.join(show_port(each, numbers) for each in ports)})"

    return show


def _immediate(bits: int, value: int) -> bytes:
    return value.to_bytes(immediate_size(bits), "big")


def _learn_part(key: str, value: str | None, names: Names) -> bytes:
    """One part of a learn: FIELD, FIELD=VALUE, FIELD=FIELD, load:X->FIELD or output:FIELD."""
    if key.startswith("output:"):
        wire, start, count = parse_part(key.removeprefix("output:"))
        return struct.pack("!HIH", count | TO_OUTPUT << TO_SHIFT, wire.header(), start)
    if key.startswith("load:"):
        source, _, destination = key.removeprefix("load:").partition("->")
        wire, start, count = parse_part(destination)
        end = struct.pack("!IH", wire.header(), start)
        if "[" in source:
            from_wire, from_start, _ = parse_part(source)
            return struct.pack("!HIH", count | TO_LOAD << TO_SHIFT, from_wire.header(), from_start) + end
        loaded = number(source, "learn: load", (1 << count) - 1)
        return struct.pack("!H", count | TO_LOAD << TO_SHIFT | IMMEDIATE) + _immediate(count, loaded) + end
    wire, start, count = parse_part(key)
    end = struct.pack("!IH", wire.header(), start)
    if value is None or "[" in value:
        from_wire, from_start, _ = parse_part(value or key)
        return struct.pack("!HIH", count | TO_MATCH << TO_SHIFT, from_wire.header(), from_start) + end
    wanted, _ = parse_value(wire.field, value, names)
    return struct.pack("!H", count | TO_MATCH << TO_SHIFT | IMMEDIATE) + _immediate(count, wanted) + end


def parse_learn(text: str, names: Names) -> bytes:
    """learn(table=1,idle_timeout=60,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])."""
    numbers = dict.fromkeys(_LEARN_NUMBERS, 0) | {"priority": 0x8000, "table": 1}
    flags = 0
    parts = b""
    for key, value in split(inside(text)):
        if key in LEARN_FLAGS and value is None:
            flags |= LEARN_FLAGS[key]
        elif key in numbers:
            numbers[key] = number(value or "", f"learn: {key}", (1 << 64) - 1 if key == "cookie" else 0xFFFF)
        else:
            parts += _learn_part(key, value, names)
    head = HEAD.pack(
        numbers["idle_timeout"], numbers["hard_timeout"], numbers["priority"], numbers["cookie"], flags,
        numbers["table"], numbers["fin_idle_timeout"], numbers["fin_hard_timeout"],
    )  # fmt: skip
    return nicira(Nx.LEARN, head + parts)


def show_learn(body: memoryview, numbers: Numbers) -> str:
    """And back."""
    learn = decode_learn(body)
    parts = [f"table={learn.table}"]
    for name, value, default in (
        ("idle_timeout", learn.idle, 0), ("hard_timeout", learn.hard, 0), ("fin_idle_timeout", learn.fin_idle, 0),
        ("fin_hard_timeout", learn.fin_hard, 0), ("priority", learn.priority, 0x8000),
    ):  # fmt: skip
        parts += [f"{name}={value}"] if value != default else []
    parts += [name for name, bit in LEARN_FLAGS.items() if learn.flags & bit]
    parts += [f"cookie={learn.cookie:#x}"] if learn.cookie else []
    for spec in learn.specs:
        source = show_part(*spec.source, spec.bits) if spec.source is not None else hex(spec.value)
        if spec.to == TO_OUTPUT:
            parts.append(f"output:{source}")
            continue
        assert spec.destination is not None
        wire, start = spec.destination
        destination = show_part(wire, start, spec.bits)
        if spec.to == TO_LOAD:
            parts.append(f"load:{source}->{destination}")
        elif spec.source is None and (start, spec.bits) == (0, wire.bits):
            shown = show_value(wire.field, spec.value, (1 << spec.bits) - 1, numbers)
            parts.append(f"{wire.field.name}={shown}")
        else:
            parts.append(destination if source == destination else f"{destination}={source}")
    return f"learn({','.join(parts)})"
