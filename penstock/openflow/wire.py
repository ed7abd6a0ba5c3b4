"""Messages as bytes: the header that all versions share, cutting a stream into messages, and errors.

OpenFlow 1.0.2 and 1.3.5, section "OpenFlow Header" and "Error Message". Numbers are in network byte order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

OF10, OF13 = 1, 4
VERSION_NAMES = {OF10: "OpenFlow10", OF13: "OpenFlow13"}
HEADER = struct.Struct("!BBHI")
ONF_ID = 0x4F4E4600  # whose extension's errors have numbers of their own
NANOSECONDS = 1_000_000_000  # in a second
ERROR_DATA_MAX = 64  # bytes of the refused message that go back


class Type(IntEnum):
    """Message types; those behind BARRIER differ by version: see ``TYPES``."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    EXPERIMENTER = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    GET_CONFIG_REQUEST = 7
    GET_CONFIG_REPLY = 8
    SET_CONFIG = 9
    PACKET_IN = 10
    FLOW_REMOVED = 11
    PORT_STATUS = 12
    PACKET_OUT = 13
    FLOW_MOD = 14
    GROUP_MOD = 15
    PORT_MOD = 16
    TABLE_MOD = 17
    MULTIPART_REQUEST = 18
    MULTIPART_REPLY = 19
    BARRIER_REQUEST = 20
    BARRIER_REPLY = 21
    QUEUE_GET_CONFIG_REQUEST = 22
    QUEUE_GET_CONFIG_REPLY = 23
    ROLE_REQUEST = 24
    ROLE_REPLY = 25
    GET_ASYNC_REQUEST = 26
    GET_ASYNC_REPLY = 27
    SET_ASYNC = 28
    METER_MOD = 29


_SHARED = {each: int(each) for each in Type if each <= Type.FLOW_MOD}
NUMBERS: dict[int, dict[Type, int]] = {
    OF10: _SHARED
    | {
        Type.PORT_MOD: 15,
        Type.MULTIPART_REQUEST: 16,
        Type.MULTIPART_REPLY: 17,
        Type.BARRIER_REQUEST: 18,
        Type.BARRIER_REPLY: 19,
        Type.QUEUE_GET_CONFIG_REQUEST: 20,
        Type.QUEUE_GET_CONFIG_REPLY: 21,
    },
    OF13: {each: int(each) for each in Type},
}
TYPES: dict[int, dict[int, Type]] = {
    version: {number: kind for kind, number in numbers.items()} for version, numbers in NUMBERS.items()
}


class ErrorType(IntEnum):
    """Kinds of error, with OpenFlow 1.3's numbers."""

    HELLO_FAILED = 0
    BAD_REQUEST = 1
    BAD_ACTION = 2
    BAD_INSTRUCTION = 3
    BAD_MATCH = 4
    FLOW_MOD_FAILED = 5
    GROUP_MOD_FAILED = 6
    PORT_MOD_FAILED = 7
    TABLE_MOD_FAILED = 8
    QUEUE_OP_FAILED = 9
    SWITCH_CONFIG_FAILED = 10
    ROLE_REQUEST_FAILED = 11
    METER_MOD_FAILED = 12
    TABLE_FEATURES_FAILED = 13
    EXPERIMENTER = 0xFFFF
    NICIRA = 0x1FFFF  # the same with Nicira's codes


# How 1.0 numbers them, and Open vSwitch those that 1.0 does not have.
_STANDARD_10 = {
    ErrorType.HELLO_FAILED: {0: (0, 0), 1: (0, 1)},
    ErrorType.BAD_REQUEST: {code: (1, code) for code in range(9)} | {10: (1, 5)},
    ErrorType.BAD_ACTION: {code: (2, code) for code in range(9)},
    ErrorType.FLOW_MOD_FAILED: {1: (3, 0), 3: (3, 1), 4: (3, 2), 6: (3, 4)},
    ErrorType.PORT_MOD_FAILED: {0: (4, 0), 1: (4, 1)},
    ErrorType.QUEUE_OP_FAILED: {code: (5, code) for code in range(3)},
}
_NICIRA_10 = {
    ErrorType.BAD_REQUEST: {9: (1, 512), 11: (1, 514)},
    ErrorType.BAD_ACTION: {10: (1, 522), 13: (1, 523), 14: (1, 524), 15: (1, 525)},
    ErrorType.BAD_INSTRUCTION: {1: (2, 257)},
    ErrorType.BAD_MATCH: {5: (1, 262), 6: (0, 263), 7: (1, 258), 8: (1, 259), 9: (1, 260), 10: (1, 261)},
    ErrorType.FLOW_MOD_FAILED: {2: (5, 257), 7: (3, 258)},
    ErrorType.NICIRA: {code: (1, 511 + code) for code in range(16, 22)} | {38: (1, 537)},
}
_UNENCODABLE_10 = (1, 521)
_NICIRA_ERROR = (0xB0C2, 0)  # type and code that say that vendor, type and code follow
NICIRA_ID = 0x00002320
HELLO_INCOMPATIBLE = 0
BAD_VERSION, BAD_TYPE, BAD_MULTIPART, BAD_EXPERIMENTER, BAD_EXP_TYPE, EPERM, BAD_LEN = range(7)
BUFFER_UNKNOWN, IS_SLAVE, BAD_PORT, BAD_PACKET = 8, 10, 11, 12
ACTION_BAD_TYPE, ACTION_BAD_LEN, ACTION_BAD_EXPERIMENTER, ACTION_BAD_EXP_TYPE, ACTION_BAD_PORT, ACTION_BAD_ARG = range(
    6
)
ACTION_TOO_MANY = 7
ACTION_BAD_GROUP, ACTION_MATCH_INCONSISTENT, ACTION_SET_TYPE, ACTION_SET_LEN, ACTION_SET_ARG = 9, 10, 13, 14, 15
INSTRUCTION_UNKNOWN, INSTRUCTION_BAD_TABLE = 0, 2
INSTRUCTION_BAD_EXPERIMENTER, INSTRUCTION_BAD_LEN, INSTRUCTION_DUPLICATE = 5, 7, 9
MATCH_BAD_TYPE, MATCH_BAD_LEN, MATCH_BAD_FIELD, MATCH_BAD_VALUE, MATCH_BAD_MASK, MATCH_BAD_PREREQ, MATCH_DUP_FIELD = (
    0, 1, 6, 7, 8, 9, 10,
)  # fmt: skip
METER_INVALID = 2
FLOW_MOD_TABLE_FULL, FLOW_MOD_BAD_TABLE, FLOW_MOD_OVERLAP, FLOW_MOD_BAD_COMMAND, FLOW_MOD_BAD_FLAGS = 1, 2, 3, 6, 7


class OpenFlowError(Exception):
    """A message that cannot be accepted: the error's type and code as OpenFlow 1.3 numbers them, and why."""

    def __init__(self, kind: ErrorType, code: int, why: str) -> None:
        super().__init__(f"{why} ({kind.name} code {code})")
        self.kind, self.code = kind, code

    def encode(self, version: int, xid: int, refused: bytes) -> bytes:
        """The error message for what was refused."""
        if version == OF10:
            return message(version, Type.ERROR, xid, self._head_10() + refused[:ERROR_DATA_MAX])
        body = struct.pack("!HH", self.kind & 0xFFFF, self.code)
        if self.kind in (ErrorType.EXPERIMENTER, ErrorType.NICIRA):
            body += struct.pack("!I", ONF_ID if self.kind == ErrorType.EXPERIMENTER else NICIRA_ID)
        body += refused[:ERROR_DATA_MAX]
        return message(version, Type.ERROR, xid, body)

    def _head_10(self) -> bytes:
        standard = _STANDARD_10.get(self.kind, {}).get(self.code)
        if standard is not None:
            return struct.pack("!HH", *standard)
        own = _NICIRA_10.get(self.kind, {}).get(self.code, _UNENCODABLE_10)
        return struct.pack("!HHIHH", *_NICIRA_ERROR, NICIRA_ID, *own)


@dataclass(frozen=True, slots=True)
class Raw:
    """A message whose header alone was looked at; ``data`` is all of it."""

    version: int
    number: int
    xid: int
    data: bytes

    @property
    def body(self) -> memoryview:
        return memoryview(self.data)[HEADER.size :]


def message(version: int, kind: Type, xid: int, body: bytes = b"") -> bytes:
    """A message's bytes."""
    return HEADER.pack(version, NUMBERS[version][kind], HEADER.size + len(body), xid) + body


def duration(spent: int) -> tuple[int, int]:
    """Seconds and nanoseconds, as messages have them, of a time in nanoseconds."""
    return divmod(max(0, spent), NANOSECONDS)


def tlv(kind: int, value: bytes) -> bytes:
    """A property: type, length and value, padded; the length does not count the padding."""
    length = 4 + len(value)
    return struct.pack("!HH", kind, length) + value + bytes(-length % 8)


class Stream:
    """Cuts received bytes into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Raw]:
        """The messages that are whole now. Raises OpenFlowError when a length is less than a header's."""
        received = self._received
        received += data
        found = []
        at = 0
        while len(received) - at >= HEADER.size:
            version, number, length, xid = HEADER.unpack_from(received, at)
            if length < HEADER.size:
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"a message of {length} bytes has no header")
            if len(received) - at < length:
                break
            found.append(Raw(version, number, xid, bytes(received[at : at + length])))
            at += length
        del received[:at]
        return found
