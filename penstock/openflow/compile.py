"""Programs in the making: what workers run, put together from actions, and what a flow must have for them.

Each action is a row of ``ACTIONS`` or ``NICIRA``, which the modules of these names fill; ``instructions`` compiles all
of a flow's. The bytes of OpenFlow 1.3 are the form in which they are kept; ``actions10`` translates 1.0's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import penstock.datapath.pipeline.program as p
from penstock.openflow.action_wire import REASON_ACTION, REASON_NO_MATCH, Kind, bad_action, split_actions
from penstock.openflow.match import BY_NUMBER, VID_PRESENT, Wire
from penstock.openflow.wire import (
    ACTION_BAD_ARG,
    ACTION_BAD_EXP_TYPE,
    ACTION_BAD_EXPERIMENTER,
    ACTION_BAD_LEN,
    ACTION_BAD_PORT,
    ACTION_BAD_TYPE,
    ACTION_SET_ARG,
    ACTION_SET_LEN,
    ACTION_SET_TYPE,
    ACTION_TOO_MANY,
    METER_INVALID,
    NICIRA_ID,
    ErrorType,
    OpenFlowError,
)
from penstock.packet.fields import BY_NAME, KEY_SIZE, Field

DEPTH_MAX = 16
MPLS_TYPES = (0x8847, 0x8848)

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

Add = Callable[["Program", memoryview], None]  # adds what an action with this body does to a program
# Type, or Nicira's subtype: (least bytes, what it does).
ACTIONS: dict[int, tuple[int, Add]] = {}
NICIRA: dict[int, tuple[int, Add]] = {}


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
    options: set[str] = field(default_factory=set)  # fields of the TLV map that it writes
    depth: int = 0  # of programs around it
    retyped: bool = False  # from here on packets are of another type than what is matched
    targets: Targets | None = None

    def add(self, code: int, a: int = 0, b: int = 0, *words: int) -> None:
        """Add an operation. Raises OpenFlowError when it has too many words."""
        if 1 + len(words) > p.WORDS_MAX:
            raise bad_action(
                ACTION_TOO_MANY, f"an action that takes {1 + len(words)} words: {p.WORDS_MAX} are the most"
            )
        self.operations += p.operation(code, a, b, words)
        self.codes.add(code)

    def add_inner(self, code: int, inner: Program) -> None:
        """Add an operation that holds a program, and note what that needs and names."""
        self.take(inner)
        self.add(code, 0, len(inner.operations) + 1)
        self.operations += [*inner.operations, p.END]

    def need(self, row: Field) -> None:
        """Note that packets have to have a field here."""
        self.note_option(row)
        if row.needs and not self.retyped and not row.needs.startswith(("vlan", "qinq")):
            self.needs.add(row.needs)

    def note_option(self, row: Field) -> None:
        """Note that a field is written, if it is one of the TLV map."""
        if row.variable:
            self.options.add(row.name)

    def inside(self) -> Program:
        """An empty program to be a part of this one. Raises OpenFlowError when that goes too deep."""
        if self.depth == DEPTH_MAX:
            raise bad_action(ACTION_TOO_MANY, f"actions within actions more than {DEPTH_MAX} deep")
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
        self.options |= inner.options


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
        raise bad_action(ACTION_SET_ARG, f"field {row.name} cannot be set")
    made.need(row)
    octets = (value << row.shift).to_bytes(row.size, "big")
    bits = (mask << row.shift).to_bytes(row.size, "big")
    start, words = field_words(row, octets, bits)
    made.add(p.SET, start, FOLLOWS.get(row.name, p.SET_NOTHING), *words)


def set_wire(made: Program, wire: Wire, value: int, mask: int) -> None:
    """The same by how the field is written in TLVs."""
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
        raise bad_action(ACTION_SET_LEN, f"{what}: no room for a field's header")
    header = int.from_bytes(data[:4], "big")
    wire = BY_NUMBER.get(header >> 9)
    if wire is None:
        raise bad_action(ACTION_SET_TYPE, f"{what}: field {header >> 16:#06x}, {header >> 9 & 0x7F} is unknown")
    masked, length = header >> 8 & 1, header & 0xFF
    if not wire.takes(length, masked) or 4 + length > len(data):
        raise bad_action(
            ACTION_SET_LEN, f"{what}: field {wire.field.name} has {length} bytes, not {wire.octets << masked}"
        )
    octets = length >> masked
    value = int.from_bytes(data[4 : 4 + octets], "big")
    full = (1 << wire.bits) - 1
    mask = int.from_bytes(data[4 + octets : 4 + length], "big") if masked else full
    if value > full or mask > full or value & ~mask:
        raise bad_action(ACTION_SET_ARG, f"{what}: field {wire.field.name} cannot be {value:#x}")
    return wire, value, mask, 4 + length


def subfield(header: int, start: int, count: int, what: str, written: bool) -> tuple[Wire, int, int]:
    """A part of a field that an action names: the field, the part's first bit in the key, and its mask there."""
    wire = BY_NUMBER.get(header >> 9)
    if wire is None:
        raise bad_action(ACTION_SET_TYPE, f"{what}: field {header >> 16:#06x}, {header >> 9 & 0x7F} is unknown")
    if count == 0 or start + count > wire.named_bits:
        raise bad_action(
            ACTION_BAD_ARG, f"{what}: bits {start} to {start + count - 1} are not in field {wire.field.name}"
        )
    if written and wire.field.name in READ_ONLY:
        raise bad_action(ACTION_SET_ARG, f"{what}: field {wire.field.name} cannot be set")
    low = wire.shift + start
    return wire, KEY_SIZE * 8 - low - count, (1 << count) - 1 << low


def add_meter(made: Program, number: int) -> None:
    """Have packets be held against a meter."""
    assert made.targets is not None
    address = made.targets.meter(number)
    if not address:
        raise OpenFlowError(ErrorType.METER_MOD_FAILED, METER_INVALID, f"meter {number} does not exist")
    made.meters.add(number)
    made.add(p.METER, 0, 0, address)


def add_output(made: Program, port: int, max_len: int) -> None:
    """Have packets go to a port; ``max_len`` bytes of them if that is the controller."""
    if port in (0, p.PORT_ANY) or (p.PORT_MAX <= port < p.PORT_IN_PORT):
        raise bad_action(ACTION_BAD_PORT, f"output to port {port:#x}, which there cannot be")
    if port == p.PORT_CONTROLLER:
        miss = made.targets is not None and made.targets.miss
        made.add(p.CONTROLLER, max_len, 0, REASON_NO_MATCH if miss else REASON_ACTION, 0)
    elif port == p.PORT_TABLE:
        made.add(p.RESUBMIT, 0)
    else:
        made.ports.add(port)
        made.add(p.OUTPUT, 0, port)


def simple(code: int) -> Add:
    """An action that has no operands."""
    return lambda made, _body: made.add(code)


def with_byte(code: int) -> Add:
    """An action with a byte as its operand."""
    return lambda made, body: made.add(code, body[0])


def retype_mpls(code: int) -> Add:
    """An action that makes MPLS of a packet, or something else of MPLS: its operand is an EtherType."""

    def add(made: Program, body: memoryview) -> None:
        kind = int.from_bytes(body[:2], "big")
        if code == p.PUSH_MPLS and kind not in MPLS_TYPES:
            raise bad_action(ACTION_BAD_ARG, f"push-mpls: type {kind:#06x} is not that of MPLS (0x8847, 0x8848)")
        made.add(code, raw16(kind))
        made.retyped = True

    return add


def compile_actions(made: Program, data: memoryview) -> None:
    """Add a list of actions to a program. Raises OpenFlowError."""
    for kind, body, _ in split_actions(data):
        if kind != Kind.EXPERIMENTER:
            _compile(made, ACTIONS, ACTION_BAD_TYPE, "action type", kind, body, 4)
            continue
        if len(body) < 6:
            raise bad_action(ACTION_BAD_LEN, f"an experimenter's action of {len(body) + 4} bytes names no action")
        number, subtype = struct.unpack_from("!IH", body)
        if number != NICIRA_ID:
            raise bad_action(ACTION_BAD_EXPERIMENTER, f"experimenter {number:#x} is unknown")
        _compile(made, NICIRA, ACTION_BAD_EXP_TYPE, "Nicira action", subtype, body[6:], 10)


def _compile(
    made: Program, rows: dict[int, tuple[int, Add]], unknown: int, what: str, kind: int, body: memoryview, head: int
) -> None:
    row = rows.get(kind)
    if row is None:
        raise bad_action(unknown, f"{what} {kind} is unknown")
    least, add = row
    if head + len(body) < least:
        raise bad_action(ACTION_BAD_LEN, f"{what} {kind} has {head + len(body)} bytes, not {least}")
    add(made, body)
