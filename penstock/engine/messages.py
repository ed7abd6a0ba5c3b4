"""The message socket's framing: a 4-byte big-endian length, then a JSON object; descriptors ride on the length."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

SOCKET_NAME = "engine.sock"
LENGTH = struct.Struct("!I")
LENGTH_MAX = 64 << 20


def socket_path(rundir: Path) -> Path:
    """Where the engine of a run directory listens."""
    return rundir / SOCKET_NAME


def send_message(connection: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message whole. Raises OSError when the other side is gone."""
    data = json.dumps(message).encode()
    header = LENGTH.pack(len(data))
    if fds:
        socket.send_fds(connection, [header], fds)
        connection.sendall(data)
    else:
        connection.sendall(header + data)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the other side closed the message socket")
        data += part
    return bytes(data)


def receive_message(connection: socket.socket, fd_count: int = 0) -> tuple[dict[str, Any], list[int]]:
    """One message and the descriptors that came with it. Raises OSError or ValueError (not a message)."""
    fds: list[int] = []
    if fd_count:
        header, fds, _flags, _address = socket.recv_fds(connection, LENGTH.size, fd_count)
        header += _receive_exactly(connection, LENGTH.size - len(header))
    else:
        header = _receive_exactly(connection, LENGTH.size)
    return _decode(_receive_exactly(connection, _length(header))), fds


def take_message(received: bytearray) -> dict[str, Any] | None:
    """Take the first message off what was received so far; None until it is whole. Raises ValueError (not one)."""
    if len(received) < LENGTH.size:
        return None
    end = LENGTH.size + _length(received)
    if len(received) < end:
        return None
    data = bytes(received[LENGTH.size : end])
    del received[:end]
    return _decode(data)


def _length(header: bytes | bytearray) -> int:
    (length,) = LENGTH.unpack_from(header)
    if length > LENGTH_MAX:
        raise ValueError(f"message of {length} bytes is longer than {LENGTH_MAX}")
    return int(length)


def _decode(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("message is nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError(f"message must be a JSON object, not {type(message).__name__}")
    return message
