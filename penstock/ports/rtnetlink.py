"""Talking to the kernel by rtnetlink(7): requests, dumps, notifications, attributes (linux/rtnetlink.h).

The engine speaks it directly: what it needs are few messages, some in the namespaces of others, and importing a library
for all of them would be a good part of the engine's start.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSG = struct.Struct("=LHHLL")
ATTRIBUTE = struct.Struct("=HH")
ATTRIBUTE_TYPE = 0x3FFF
RECEIVE_BYTES = 1 << 18
EVENT_BUFFER = 4 << 20


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute with its header and padding."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``: type and payload."""
    position = 0
    while position + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, position)
        if length < ATTRIBUTE.size:
            return
        yield kind & ATTRIBUTE_TYPE, data[position + ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def open_netlink() -> socket.socket:
    """A socket to the routing subsystem of this thread's network namespace."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of one datagram: type, sequence number, payload."""
    position = 0
    while position + NLMSG.size <= len(data):
        length, kind, _flags, sequence, _port = NLMSG.unpack_from(data, position)
        if length < NLMSG.size:
            return
        yield kind, sequence, data[position + NLMSG.size : position + length]
        position += (length + 3) & ~3


class Channel:
    """Requests over one socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; the payloads of the answers, none for a bare acknowledgement. Raises OSError."""
        self._sequence += 1
        flags |= NLM_F_REQUEST
        self._socket.send(NLMSG.pack(NLMSG.size + len(body), kind, flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            for answered, sequence, payload in _messages(self._socket.recv(RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if answered == NLMSG_DONE:
                    return answers
                if answered == NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", payload)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return answers
                answers.append(payload)
                if not flags & NLM_F_DUMP == NLM_F_DUMP:
                    return answers


class Events:
    """Notifications of some groups (RTMGRP_*), as they come."""

    def __init__(self, groups: int) -> None:
        self._socket = open_netlink()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER)
        self._socket.setblocking(False)
        self._socket.bind((0, groups))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[tuple[int, bytes]] | None:
        """What has come: message type and payload; None when some was lost and all must be read anew."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return None
            found += [(kind, payload) for kind, _sequence, payload in _messages(data)]
