"""Action programs: what a flow entry does to a packet, as words that workers run.

A program is a row of operations. An operation's first word has its opcode in bits 0..7, the number of its words (this
one included) in bits 8..15, operand ``a`` in bits 16..31 and operand ``b`` in bits 32..63; further words follow it.
Field values are words of the flow key as they stand there (network byte order, read little-endian), so a write to the
key is a load, a mask and a store.

Each operation is declared once, in OPERATIONS. Programs are built by the control process (``operation`` makes the
words), are never changed once a flow entry names them, and are freed after a quiet point.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.machine.op import signed

WORDS_MAX = 255  # of an operation


@dataclass(frozen=True)
class Operation:
    """One kind of operation. ``words`` counts all its words; 0: it says so itself."""

    name: str
    words: int
    text: str  # what ``a``, ``b`` and the words behind the first are


OPERATIONS: tuple[Operation, ...] = (
    Operation("END", 1, "the end of the program"),
    Operation("OUTPUT", 1, "b: OpenFlow port number, reserved ones included"),
    Operation("OUTPUT_FIELD", 2, "the port is read from the key; a: offset in bits of the lowest bit from the key's "
              "start counted in network order; word: number of bits"),
    Operation("CONTROLLER", 3, "a: bytes of the packet; b: controller id; words: reason, address of user data or 0"),
    Operation("GROUP", 2, "word: address of the GROUP"),
    Operation("METER", 2, "word: address of the METER"),
    Operation("SET", 0, "a: byte offset in the key, a multiple of 8; b: SET_ kind that says what in the packet has "
              "to follow; then pairs of words: value, mask"),
    Operation("MOVE", 4, "a: SET_ kind of the destination; words: source bit, destination bit, number of bits; bits "
              "are counted from the key's start, the most significant bit of its first byte being 0"),
    Operation("PUSH_VLAN", 1, "a: TPID, raw"),
    Operation("POP_VLAN", 1, ""),
    Operation("PUSH_MPLS", 1, "a: Ethernet type, raw"),
    Operation("POP_MPLS", 1, "a: Ethernet type of what is below, raw"),
    Operation("DEC_TTL", 1, "b: controller id that is told of an expired one"),
    Operation("DEC_MPLS_TTL", 1, ""),
    Operation("SET_MPLS_TTL", 1, "a: TTL"),
    Operation("COPY_TTL_OUT", 1, "from the next to the outermost header with a TTL"),
    Operation("COPY_TTL_IN", 1, "from the outermost to the next header with a TTL"),
    Operation("SET_QUEUE", 1, "b: queue id"),
    Operation("POP_QUEUE", 1, ""),
    Operation("RESUBMIT", 1, "a: table; b: OpenFlow port that in_port is meanwhile, 0 the present one"),
    Operation("GOTO", 1, "a: table; ends this program"),
    Operation("WRITE", 1, "b: words of the operations behind it, which go to the action set; an END is the last"),
    Operation("CLEAR", 1, "empty the action set"),
    Operation("PUSH", 3, "push bits on the stack; words: source bit, number of bits"),
    Operation("POP", 4, "pop bits off the stack; a: SET_ kind; words: destination bit, number of bits, 0"),
    Operation("LEARN", 0, "have the control process add a flow; words: address of the action's bytes, then, in pairs, "
              "offset in the key and mask of each word that it reads"),
    Operation("MULTIPATH", 6, "write a link's number to a field; a: SET_ kind of that; b: links; "
              "words: HASH_ fields, basis, LINK_ algorithm, first bit and number of bits of the field"),
    Operation("BUNDLE", 0, "choose a live port; a: SET_ kind of the field it is written to; b: 1: it is, 0: the "
              "packet leaves by it; words: HASH_ fields, basis, MEMBER_ algorithm, first bit and number of bits of the "
              "field, then OpenFlow ports"),
    Operation("FIN_TIMEOUT", 2, "have the control process shorten the flow's time-outs when TCP ends; word: idle << 16 "
              "| hard"),
    Operation("CONJUNCTION", 2, "the flow is a part of conjunctive matches; b: id; word: clause | clauses << 8"),
    Operation("EXIT", 1, "no more actions, not even of outer tables"),
    Operation("CLONE", 1, "b: words of the operations behind it, which work on a copy; an END is the last"),
)  # fmt: skip
NAMES = [each.name for each in OPERATIONS]
(
    END, OUTPUT, OUTPUT_FIELD, CONTROLLER, GROUP, METER, SET, MOVE, PUSH_VLAN, POP_VLAN, PUSH_MPLS, POP_MPLS, DEC_TTL,
    DEC_MPLS_TTL, SET_MPLS_TTL, COPY_TTL_OUT, COPY_TTL_IN, SET_QUEUE, POP_QUEUE, RESUBMIT, GOTO, WRITE, CLEAR, PUSH,
    POP, LEARN, MULTIPATH, BUNDLE, FIN_TIMEOUT, CONJUNCTION, EXIT, CLONE,
) = range(len(OPERATIONS))  # fmt: skip

# What in a packet follows a write to its key: kinds of SET, MOVE and POP.
SETS = (
    "NOTHING", "ETH_DST", "ETH_SRC", "VLAN", "IP_SRC", "IP_DST", "TOS", "TTL", "L4_SRC", "L4_DST", "ICMP", "ARP_OP",
    "ARP_SPA", "ARP_TPA", "ARP_SHA", "ARP_THA", "IPV6_SRC", "IPV6_DST", "IPV6_LABEL", "ND_TARGET", "ND_SLL", "ND_TLL",
    "MPLS", "TCP_FLAGS",
)  # fmt: skip
(
    SET_NOTHING, SET_ETH_DST, SET_ETH_SRC, SET_VLAN, SET_IP_SRC, SET_IP_DST, SET_TOS, SET_TTL, SET_L4_SRC, SET_L4_DST,
    SET_ICMP, SET_ARP_OP, SET_ARP_SPA, SET_ARP_TPA, SET_ARP_SHA, SET_ARP_THA, SET_IPV6_SRC, SET_IPV6_DST,
    SET_IPV6_LABEL, SET_ND_TARGET, SET_ND_SLL, SET_ND_TLL, SET_MPLS, SET_TCP_FLAGS,
) = range(len(SETS))  # fmt: skip

HASH_ETH_SRC, HASH_SYMMETRIC_L4, HASH_SYMMETRIC_L3L4, HASH_SYMMETRIC_L3L4_UDP, HASH_IP_SRC, HASH_IP_DST = range(6)
LINK_MODULO, LINK_THRESHOLD, LINK_HIGHEST_RANDOM_WEIGHT, LINK_ITERATIVE = range(4)
MEMBER_ACTIVE_BACKUP, MEMBER_HIGHEST_RANDOM_WEIGHT = range(2)

# OpenFlow port numbers with a meaning of their own (OpenFlow 1.3, 7.2.1, ofp_port_no).
PORT_MAX = 0xFFFFFF00
PORT_UNSET, PORT_IN_PORT, PORT_TABLE, PORT_NORMAL, PORT_FLOOD, PORT_ALL, PORT_CONTROLLER, PORT_LOCAL, PORT_ANY = range(
    0xFFFFFFF7, 0x100000000
)


def operation(code: int, a: int = 0, b: int = 0, words: tuple[int, ...] = ()) -> list[int]:
    """The words of one operation, as signed 64-bit integers."""
    expected = OPERATIONS[code].words
    if expected and expected != 1 + len(words):
        raise ValueError(f"operation {NAMES[code]} has {expected} words, not {1 + len(words)}")
    if 1 + len(words) > WORDS_MAX:
        raise ValueError(f"operation {NAMES[code]} of {1 + len(words)} words: {WORDS_MAX} are the most")
    first = code | (1 + len(words)) << 8 | (a & 0xFFFF) << 16 | (b & 0xFFFFFFFF) << 32
    return [signed(first), *map(signed, words)]
