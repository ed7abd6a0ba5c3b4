"""The vhost-user protocol's messages: numbers, payloads, framing, descriptors beside them. For front end and back end.

A message is a header of three u32 (request, flags, payload bytes) in the machine's byte order, then the payload; file
descriptors ride beside it (SCM_RIGHTS). Source: "Vhost-user Protocol" in QEMU's documentation (interop/vhost-user).
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

HEADER = struct.Struct("=III")
VERSION, VERSION_MASK = 0x1, 0x3
REPLY, NEED_REPLY = 0x4, 0x8
PAYLOAD_MAX = 4096  # the longest that any message here has is SET_MEM_TABLE's 264 bytes
DESCRIPTORS_MAX = 8  # of one message: SET_MEM_TABLE's

U64 = struct.Struct("=Q")
VRING_STATE = struct.Struct("=II")  # index, number
VRING_ADDRESS = struct.Struct("=IIQQQQ")  # index, flags, descriptors, used, available, log
MEMORY_HEADER = struct.Struct("=II")  # number of regions, padding
REGION = struct.Struct("=QQQQ")  # guest address, size, front end's address, offset in the descriptor's file
SINGLE_REGION = struct.Struct("=QQQQQ")  # padding, then a region
LOG_AREA = struct.Struct("=QQ")  # size, offset
INFLIGHT = struct.Struct("=QQHH4x")  # size, offset, queues, queue size

VRING_INDEX_MASK, VRING_NO_FD = 0xFF, 0x100
VRING_FLAG_LOG = 1
TABLE_REGIONS_MAX = 8  # in one SET_MEM_TABLE


class Request(IntEnum):
    """What the front end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class ProtocolFeature(IntEnum):
    """Protocol features, by bit number."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


class ProtocolViolation(Exception):
    """The other side sent what the protocol does not allow; the text names the message and the value."""


@dataclass
class Message:
    """One message and the descriptors that came with it, which the receiver owns."""

    request: int
    flags: int
    payload: bytes
    fds: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        try:
            return Request(self.request).name
        except ValueError:
            return f"request {self.request}"

    def close_fds(self) -> None:
        """Close the descriptors that nobody took."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


def encode(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """A message's bytes; ``flags`` REPLY or NEED_REPLY, the version is added."""
    return HEADER.pack(request, VERSION | flags, len(payload)) + payload


def send(
    connection: socket.socket, request: int, payload: bytes = b"", flags: int = 0, fds: Sequence[int] = ()
) -> None:
    """Send one message whole. Raises OSError, also (BlockingIOError) when a non-blocking socket takes only part."""
    data = encode(request, payload, flags)
    sent = socket.send_fds(connection, [data], list(fds)) if fds else connection.send(data)
    while sent < len(data):
        sent += connection.send(data[sent:])


class Receiver:
    """Puts messages together from what a socket gives, however it is cut; used with blocking and other sockets."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = bytearray()
        self._fds: list[int] = []

    def close(self) -> None:
        """Close descriptors that came with a message that never was whole."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    @property
    def within(self) -> bool:
        """Whether part of a message has come."""
        return bool(self._data or self._fds)

    def receive(self) -> Message | None:
        """The next message; None when the rest of it is still to come (or, non-blocking, nothing has).

        Raises ConnectionError when the other side closed, ProtocolViolation on a header that cannot be one.
        """
        # One message at a time, so that descriptors are never taken for those of the next.
        missing = HEADER.size - len(self._data)
        if missing <= 0:
            missing = HEADER.size + self._length() - len(self._data)
        if missing > 0:
            try:
                part = self._read(missing)
            except BlockingIOError:
                return None
            if not part:
                raise ConnectionError("the other side closed the socket" + (" within a message" * self.within))
            self._data += part
        if len(self._data) < HEADER.size:
            return None
        if len(self._data) < HEADER.size + self._length():
            return self.receive() if len(self._data) == HEADER.size else None
        request, flags, _length = HEADER.unpack_from(self._data)
        message = Message(request, flags, bytes(self._data[HEADER.size :]), self._fds)
        self._data, self._fds = bytearray(), []
        return message

    def _length(self) -> int:
        request, flags, length = HEADER.unpack_from(self._data)
        if flags & VERSION_MASK != VERSION:
            raise ProtocolViolation(f"request {request}: version {flags & VERSION_MASK} is unknown, 1 is meant")
        if length > PAYLOAD_MAX:
            raise ProtocolViolation(f"request {request}: payload of {length} bytes is longer than {PAYLOAD_MAX}")
        return int(length)

    def _read(self, size: int) -> bytes:
        """Up to ``size`` bytes; descriptors are put aside, closed when a program is executed."""
        space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
        data, ancillary, flags, _address = self._connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._fds += fds
        if flags & socket.MSG_CTRUNC or len(self._fds) > DESCRIPTORS_MAX:
            raise ProtocolViolation(f"more than {DESCRIPTORS_MAX} descriptors came with one message")
        return data
