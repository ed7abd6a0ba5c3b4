"""Actions and instructions: from the bytes of OpenFlow 1.3 and Nicira's extensions to a program that workers run.

The bytes of OpenFlow 1.3 are the form in which a flow's instructions are kept; ``actions10`` translates 1.0's. One row
of ``ACTIONS`` or ``NICIRA`` for each kind. OpenFlow 1.3.5, sections 7.2.4 and 7.2.5; nicira-ext.h of Open vSwitch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_tables import TABLES
from penstock.openflow.match import BY_NUMBER, VID_PRESENT, Wire
from penstock.openflow.wire import (
    ACTION_BAD_ARG,
    ACTION_BAD_EXP_TYPE,
    ACTION_BAD_EXPERIMENTER,
    ACTION_BAD_GROUP,
    ACTION_BAD_LEN,
    ACTION_BAD_PORT,
    ACTION_BAD_TYPE,
    ACTION_SET_ARG,
    ACTION_SET_LEN,
    ACTION_SET_TYPE,
    ACTION_TOO_MANY,
    INSTRUCTION_BAD_EXPERIMENTER,
    INSTRUCTION_BAD_LEN,
    INSTRUCTION_BAD_TABLE,
    INSTRUCTION_DUPLICATE,
    INSTRUCTION_UNKNOWN,
    NICIRA_ID,
    ErrorType,
    OpenFlowError,
)
from penstock.packet.fields import BY_NAME, KEY_SIZE, Field

GOTO_TABLE, WRITE_METADATA, WRITE_ACTIONS, APPLY_ACTIONS, CLEAR_ACTIONS, METER = range(1, 7)
CURRENT_TABLE = 0xFF
DEPTH_MAX = 16
VLAN_TYPES, MPLS_TYPES = (0x8100, 0x88A8), (0x8847, 0x8848)
REASON_NO_MATCH, REASON_ACTION = 0, 1
VENDOR = 0xFFFF
NX_LOAD = 7

# What in a packet follows each field; those that are not named are not written to packets.
FOLLOWS = {
    "eth_dst": p.SET_ETH_DST, "eth_src": p.SET_ETH_SRC, "vlan_tci": p.SET_VLAN, "vlan_vid": p.SET_VLAN,
    "vlan_pcp": p.SET_VLAN, "ip_src": p.SET_IP_SRC, "ip_dst": p.SET_IP_DST, "arp_spa": p.SET_ARP_SPA,
    "arp_tpa": p.SET_ARP_TPA, "nw_ttl": p.SET_TTL, "nw_tos": p.SET_TOS, "ip_dscp": p.SET_TOS, "nw_ecn": p.SET_TOS,
    "tcp_src": p.SET_L4_SRC, "udp_src": p.SET_L4_SRC, "sctp_src": p.SET_L4_SRC, "tcp_dst": p.SET_L4_DST,
    "udp_dst": p.SET_L4_DST, "sctp_dst": p.SET_L4_DST, "icmp_type": p.SET_ICMP, "icmp_code": p.SET_ICMP,
    "icmpv6_type": p.SET_ICMP, "icmpv6_code": p.SET_ICMP, "arp_op": p.SET_ARP_OP, "arp_sha": p.SET_ARP_SHA,
    "arp_tha": p.SET_ARP_THA, "mpls_label": p.SET_MPLS, "mpls_tc": p.SET_MPLS, "mpls_bos": p.SET_MPLS,
    "mpls_ttl": p.SET_MPLS, "ipv6_src": p.SET_IPV6_SRC, "ipv6_dst": p.SET_IPV6_DST, "ipv6_label": p.SET_IPV6_LABEL,
    "nd_target": p.SET_ND_TARGET, "nd_sll": p.SET_ND_SLL, "nd_tll": p.SET_ND_TLL,
}  # fmt: skip
# What may be written to the action set.
IN_ACTION_SET = {
    p.OUTPUT, p.CONTROLLER, p.GROUP, p.SET, p.MOVE, p.PUSH_VLAN, p.POP_VLAN, p.PUSH_MPLS, p.POP_MPLS, p.DEC_TTL,
    p.DEC_MPLS_TTL, p.SET_MPLS_TTL, p.COPY_TTL_OUT, p.COPY_TTL_IN, p.SET_QUEUE,
}  # fmt: skip
READ_ONLY = {
    "in_phy_port", "eth_type", "nw_proto", "ip_frag", "tcp_flags", "inner_vlan_tci", "inner_vlan_vid",
    "inner_vlan_pcp", "actset_output", "conj_id", "mpls_bos",
}  # fmt: skip


@dataclass
class Targets:
    """What a flow's instructions are compiled against: its table, and where groups and meters are."""

    table: int
    group: Callable[[int], int]  # address by number; 0 when there is none
    meter: Callable[[int], int]
    blob: Callable[[bytes], int]  # address of bytes that operations refer to
    miss: bool = False  # the flow is what a table does with packets that no other matches


@dataclass
class Program:
    """Operations, and what they read of a key, as the mask of a key seen as a number."""

    operations: list[int] = field(default_factory=list)
    reads: int = 0
    groups: set[int] = field(default_factory=set)
    meters: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)  # prerequisites of what is set and read, as the flow must match them
    codes: set[int] = field(default_factory=set)  # of its operations, those inside others left out
    depth: int = 0  # of programs around it
    retyped: bool = False  # from here on packets are of another type than what is matched
    targets: Targets | None = None

    def add(self, code: int, a: int = 0, b: int = 0, *words: int) -> None:
        """Add an operation. Raises OpenFlowError when it has too many words."""
        if 1 + len(words) > p.WORDS_MAX:
            raise bad(ACTION_TOO_MANY, f"an action that takes {1 + len(words)} words: {p.WORDS_MAX} are the most")
        self.operations += p.operation(code, a, b, words)
        self.codes.add(code)

    def add_inner(self, code: int, inner: Program) -> None:
        """Add an operation that holds a program, and note what that needs and names."""
        self.take(inner)
        self.add(code, 0, len(inner.operations) + 1)
        self.operations += [*inner.operations, p.END]

    def need(self, row: Field) -> None:
        """Note that packets have to have a field here."""
        if row.needs and not self.retyped and not row.needs.startswith(("vlan", "qinq")):
            self.needs.add(row.needs)

    def inside(self) -> Program:
        """An empty program to be a part of this one. Raises OpenFlowError when that goes too deep."""
        if self.depth == DEPTH_MAX:
            raise bad(ACTION_TOO_MANY, f"actions within actions more than {DEPTH_MAX} deep")
        return Program(targets=self.targets, depth=self.depth + 1)

    @property
    def is_conjunctive(self) -> bool:
        """Whether the flow is a part of conjunctive matches."""
        return p.CONJUNCTION in self.codes

    def take(self, inner: Program) -> None:
        """Note what another program, which is a part of this one, needs and names."""
        self.reads |= inner.reads
        self.groups |= inner.groups
        self.meters |= inner.meters
        self.ports |= inner.ports
        self.needs |= inner.needs


def bad(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.BAD_ACTION, code, why)


def action(kind: int, body: bytes) -> bytes:
    """An action's bytes, padded."""
    length = 4 + len(body)
    padding = -length % 8
    return struct.pack("!HH", kind, length + padding) + body + bytes(padding)


def nicira(subtype: int, body: bytes = b"") -> bytes:
    """A Nicira action's bytes."""
    return action(VENDOR, struct.pack("!IH", NICIRA_ID, subtype) + body)


def output_action(port: int) -> bytes:
    """The action that outputs to a port."""
    return action(0, struct.pack("!IH6x", port, 0))


def raw16(value: int) -> int:
    """A 16-bit number as it is loaded from network byte order."""
    return int.from_bytes(value.to_bytes(2, "big"), "little")


def field_words(row: Field, octets: bytes, mask: bytes) -> tuple[int, list[int]]:
    """Offset of the first word that a write to a field touches, and value and mask of each word."""
    start = row.offset & ~7
    end = (row.offset + row.size + 7) & ~7
    value, bits = bytearray(end - start), bytearray(end - start)
    place = row.offset - start
    value[place : place + row.size], bits[place : place + row.size] = octets, mask
    words = []
    for at in range(0, end - start, 8):
        words += [int.from_bytes(value[at : at + 8], "little"), int.from_bytes(bits[at : at + 8], "little")]
    return start, words


def set_field(made: Program, row: Field, value: int, mask: int) -> None:
    """SET of a field's bits, at the field's own scale."""
    if row.name in READ_ONLY:
        raise bad(ACTION_SET_ARG, f"field {row.name} cannot be set")
    made.need(row)
    octets = (value << row.shift).to_bytes(row.size, "big")
    bits = (mask << row.shift).to_bytes(row.size, "big")
    start, words = field_words(row, octets, bits)
    made.add(p.SET, start, FOLLOWS.get(row.name, p.SET_NOTHING), *words)


def _set_wire(made: Program, wire: Wire, value: int, mask: int) -> None:
    row = wire.field
    if row.name == "vlan_vid":
        # The bit that says "tagged" is set with it: an untagged packet gets a tag.
        set_field(made, BY_NAME["vlan_tci"], value | VID_PRESENT, mask | VID_PRESENT)
    elif row.name == "vlan_pcp":
        set_field(made, BY_NAME["vlan_tci"], value << 13 | VID_PRESENT, mask << 13 | VID_PRESENT)
    else:
        set_field(made, row, value, mask)


def read_tlv(data: memoryview, what: str) -> tuple[Wire, int, int, int]:
    """Field, value, mask and length of a TLV that an action holds."""
    if len(data) < 4:
        raise bad(ACTION_SET_LEN, f"{what}: no room for a field's header")
    header = int.from_bytes(data[:4], "big")
    wire = BY_NUMBER.get(header >> 9)
    if wire is None:
        raise bad(ACTION_SET_TYPE, f"{what}: field {header >> 16:#06x}, {header >> 9 & 0x7F} is unknown")
    masked, length = header >> 8 & 1, header & 0xFF
    if length != wire.octets << masked or 4 + length > len(data):
        raise bad(ACTION_SET_LEN, f"{what}: field {wire.field.name} has {length} bytes, not {wire.octets << masked}")
    value = int.from_bytes(data[4 : 4 + wire.octets], "big")
    full = (1 << wire.bits) - 1
    mask = int.from_bytes(data[4 + wire.octets : 4 + length], "big") if masked else full
    if value > full or value & ~mask:
        raise bad(ACTION_SET_ARG, f"{what}: field {wire.field.name} cannot be {value:#x}")
    return wire, value, mask, 4 + length


def subfield(header: int, start: int, count: int, what: str, written: bool) -> tuple[Wire, int, int]:
    """A part of a field that an action names: the field, the part's first bit in the key, and its mask there."""
    wire = BY_NUMBER.get(header >> 9)
    if wire is None:
        raise bad(ACTION_SET_TYPE, f"{what}: field {header >> 16:#06x}, {header >> 9 & 0x7F} is unknown")
    if count == 0 or start + count > wire.named_bits:
        raise bad(ACTION_BAD_ARG, f"{what}: bits {start} to {start + count - 1} are not in field {wire.field.name}")
    if written and wire.field.name in READ_ONLY:
        raise bad(ACTION_SET_ARG, f"{what}: field {wire.field.name} cannot be set")
    low = wire.shift + start
    return wire, KEY_SIZE * 8 - low - count, (1 << count) - 1 << low


def add_meter(made: Program, number: int) -> None:
    """Have packets be held against a meter."""
    assert made.targets is not None
    address = made.targets.meter(number)
    if not address:
        raise OpenFlowError(ErrorType.METER_MOD_FAILED, 2, f"meter {number} does not exist")
    made.meters.add(number)
    made.add(p.METER, 0, 0, address)


# Each takes the action's body (behind its header) and adds to the program.
def _output(made: Program, body: memoryview) -> None:
    port, max_len = struct.unpack_from("!IH", body)
    add_output(made, port, max_len)


def add_output(made: Program, port: int, max_len: int) -> None:
    if port in (0, p.PORT_ANY) or (p.PORT_MAX <= port < p.PORT_IN_PORT):
        raise bad(ACTION_BAD_PORT, f"output to port {port:#x}, which there cannot be")
    if port == p.PORT_CONTROLLER:
        miss = made.targets is not None and made.targets.miss
        made.add(p.CONTROLLER, max_len, 0, REASON_NO_MATCH if miss else REASON_ACTION, 0)
    elif port == p.PORT_TABLE:
        made.add(p.RESUBMIT, 0)
    else:
        made.ports.add(port)
        made.add(p.OUTPUT, 0, port)


def _group(made: Program, body: memoryview) -> None:
    (number,) = struct.unpack_from("!I", body)
    address = made.targets.group(number) if made.targets else 0
    if not address:
        raise bad(ACTION_BAD_GROUP, f"group {number} does not exist")
    made.groups.add(number)
    made.add(p.GROUP, 0, 0, address)


def _set_field_action(made: Program, body: memoryview) -> None:
    wire, value, mask, _ = read_tlv(body, "set-field")
    _set_wire(made, wire, value, mask)


def _push_vlan(made: Program, body: memoryview) -> None:
    (kind,) = struct.unpack_from("!H", body)
    if kind not in VLAN_TYPES:
        raise bad(ACTION_BAD_ARG, f"push-vlan: type {kind:#06x} is not that of a VLAN tag (0x8100, 0x88a8)")
    made.add(p.PUSH_VLAN, raw16(kind))


def _push_mpls(made: Program, body: memoryview) -> None:
    (kind,) = struct.unpack_from("!H", body)
    if kind not in MPLS_TYPES:
        raise bad(ACTION_BAD_ARG, f"push-mpls: type {kind:#06x} is not that of MPLS (0x8847, 0x8848)")
    made.add(p.PUSH_MPLS, raw16(kind))
    made.retyped = True


def _simple(code: int) -> Callable[[Program, memoryview], None]:
    return lambda made, _body: made.add(code)


def _pop_mpls(made: Program, body: memoryview) -> None:
    made.add(p.POP_MPLS, raw16(struct.unpack_from("!H", body)[0]))
    made.retyped = True


def _with_byte(code: int) -> Callable[[Program, memoryview], None]:
    return lambda made, body: made.add(code, body[0])


def _set_queue(made: Program, body: memoryview) -> None:
    made.add(p.SET_QUEUE, 0, struct.unpack_from("!I", body)[0])


def _set_nw_ttl(made: Program, body: memoryview) -> None:
    set_field(made, BY_NAME["nw_ttl"], body[0], 0xFF)


# Type: (least bytes, what it does).
ACTIONS: dict[int, tuple[int, Callable[[Program, memoryview], None]]] = {
    0: (16, _output),
    11: (8, _simple(p.COPY_TTL_OUT)),
    12: (8, _simple(p.COPY_TTL_IN)),
    15: (8, _with_byte(p.SET_MPLS_TTL)),
    16: (8, _simple(p.DEC_MPLS_TTL)),
    17: (8, _push_vlan),
    18: (8, _simple(p.POP_VLAN)),
    19: (8, _push_mpls),
    20: (8, _pop_mpls),
    21: (8, _set_queue),
    22: (8, _group),
    23: (8, _set_nw_ttl),
    24: (8, _simple(p.DEC_TTL)),
    25: (8, _set_field_action),
}


def split_actions(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Type, body and all of each action. Raises OpenFlowError for lengths that cannot be."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise bad(ACTION_BAD_LEN, f"{len(data) - at} bytes are left of the actions, one has 8 at least")
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 8 or length % 8 or at + length > len(data):
            raise bad(ACTION_BAD_LEN, f"action type {kind}: {length} bytes are not a multiple of 8 that fits")
        yield kind, data[at + 4 : at + length], data[at : at + length]
        at += length


def compile_actions(made: Program, data: memoryview) -> None:
    """Add a list of actions to a program."""
    for kind, body, whole in split_actions(data):
        if kind == 0xFFFF:
            _experimenter(made, body)
            continue
        known = ACTIONS.get(kind)
        if known is None:
            raise bad(ACTION_BAD_TYPE, f"action type {kind} is unknown")
        if len(whole) < known[0]:
            raise bad(ACTION_BAD_LEN, f"action type {kind} has {len(whole)} bytes, not {known[0]}")
        known[1](made, body)


def _experimenter(made: Program, body: memoryview) -> None:
    from penstock.openflow.nicira import NICIRA

    if len(body) < 6:
        raise bad(ACTION_BAD_LEN, f"an experimenter's action of {len(body) + 4} bytes names no action")
    number, subtype = struct.unpack_from("!IH", body)
    if number != NICIRA_ID:
        raise bad(ACTION_BAD_EXPERIMENTER, f"experimenter {number:#x} is unknown")
    known = NICIRA.get(subtype)
    if known is None:
        raise bad(ACTION_BAD_EXP_TYPE, f"Nicira action {subtype} is unknown or not there yet")
    if len(body) + 4 < known[0]:
        raise bad(ACTION_BAD_LEN, f"Nicira action {subtype} has {len(body) + 4} bytes, not {known[0]}")
    known[1](made, body[6:])


def _bad_instruction(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.BAD_INSTRUCTION, code, why)


def split_instructions(data: memoryview) -> dict[int, memoryview]:
    """The body of each instruction by its type. Raises OpenFlowError."""
    found: dict[int, memoryview] = {}
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise _bad_instruction(INSTRUCTION_BAD_LEN, f"{len(data) - at} bytes are left, an instruction has 8")
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 8 or length % 8 or at + length > len(data):
            raise _bad_instruction(INSTRUCTION_BAD_LEN, f"instruction type {kind}: {length} bytes do not fit")
        if kind == 0xFFFF:
            raise _bad_instruction(INSTRUCTION_BAD_EXPERIMENTER, "no experimenter's instruction is known")
        if not GOTO_TABLE <= kind <= METER:
            raise _bad_instruction(INSTRUCTION_UNKNOWN, f"instruction type {kind} is unknown")
        if kind in found:
            raise _bad_instruction(INSTRUCTION_DUPLICATE, f"instruction type {kind} comes twice")
        found[kind] = data[at + 4 : at + length]
        at += length
    return found


def compile_instructions(data: bytes | memoryview, targets: Targets) -> Program:
    """The program for a flow's instructions, in the order in which OpenFlow has them run."""
    made = Program(targets=targets)
    found = split_instructions(memoryview(data))
    lengths = {GOTO_TABLE: 8, WRITE_METADATA: 24, METER: 8}
    for kind, body in found.items():
        if kind in lengths and len(body) + 4 != lengths[kind]:
            raise _bad_instruction(INSTRUCTION_BAD_LEN, f"instruction type {kind} has {len(body) + 4} bytes")
    if METER in found:
        add_meter(made, struct.unpack_from("!I", found[METER])[0])
    if APPLY_ACTIONS in found:
        compile_actions(made, found[APPLY_ACTIONS][4:])
    if CLEAR_ACTIONS in found:
        made.add(p.CLEAR)
    if WRITE_ACTIONS in found and len(found[WRITE_ACTIONS]) > 4:
        inner = made.inside()
        compile_actions(inner, found[WRITE_ACTIONS][4:])
        if not inner.codes <= IN_ACTION_SET:
            names = ", ".join(p.NAMES[code].lower() for code in sorted(inner.codes - IN_ACTION_SET))
            raise bad(ACTION_BAD_TYPE, f"write-actions: {names} cannot be in an action set")
        made.add_inner(p.WRITE, inner)
    if WRITE_METADATA in found:
        value, mask = struct.unpack_from("!QQ", found[WRITE_METADATA], 4)
        set_field(made, BY_NAME["metadata"], value & mask, mask)
    if GOTO_TABLE in found:
        table = found[GOTO_TABLE][0]
        if not targets.table < table < TABLES:
            raise _bad_instruction(INSTRUCTION_BAD_TABLE, f"goto table {table} from table {targets.table}")
        made.add(p.GOTO, table)
    if made.is_conjunctive and made.codes != {p.CONJUNCTION}:
        raise bad(ACTION_BAD_ARG, "conjunction: a flow that is a part of conjunctive matches does nothing else")
    return made


def apply_instruction(actions: bytes) -> bytes:
    """The instructions that apply a list of actions; nothing for an empty one, which drops."""
    if not actions:
        return b""
    return struct.pack("!HHI", APPLY_ACTIONS, 8 + len(actions), 0) + actions
