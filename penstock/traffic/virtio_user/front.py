"""The front end's side of the vhost-user socket: one method per message, in no enforced order.

Main thread. The socket is blocking, with a time limit. With REPLY_ACK (``acknowledged``) every request that has no
answer of its own asks for one, and a back end that refuses raises Refused. Descriptors passed stay the caller's.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.ports.vhost_user.messages import (
    INFLIGHT,
    LOG_AREA,
    MEMORY_HEADER,
    NEED_REPLY,
    REGION,
    REPLY,
    SINGLE_REGION,
    U64,
    VRING_ADDRESS,
    VRING_FLAG_LOG,
    VRING_NO_FD,
    VRING_STATE,
    Message,
    ProtocolViolation,
    Receiver,
    Request,
    send,
)


class Refused(Exception):
    """The back end answered a request with an error; the text names the request and the answer."""


@dataclass(frozen=True)
class Region:
    """A piece of guest memory: where the guest has it, where this process has it, where its file has it."""

    guest: int
    size: int
    address: int
    offset: int

    def pack(self) -> bytes:
        return REGION.pack(self.guest, self.size, self.address, self.offset)


@dataclass(frozen=True)
class Inflight:
    """The area that a back end notes its unfinished buffers in, so that the next one can finish them."""

    fd: int
    size: int
    offset: int
    queues: int
    queue_size: int


def dial(path: Path, seconds: float) -> socket.socket:
    """Connect to a back end that listens. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(seconds)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def listen(path: Path) -> socket.socket:
    """Listen for a back end. A socket left by a process that is gone is replaced. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.is_socket():
            try:
                dial(path, 1).close()
            except ConnectionRefusedError:
                path.unlink()
        listener.bind(str(path))
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def accept(listener: socket.socket, seconds: float) -> socket.socket:
    """The next back end that connects. Raises TimeoutError."""
    listener.settimeout(seconds)
    connection, _address = listener.accept()
    connection.settimeout(seconds)
    return connection


class FrontEnd:
    """One connection to a back end, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.acknowledged = False  # REPLY_ACK was negotiated
        self._receiver = Receiver(connection)

    def close(self) -> None:
        self._receiver.close()
        self.connection.close()

    @property
    def lost(self) -> bool:
        """Whether the back end is gone; it has nothing to say between answers, so anything else counts as that too."""
        return self.connection.fileno() < 0 or bool(select.select([self.connection], [], [], 0)[0])

    def ask(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> Message:
        """Send a request that has an answer, and return that."""
        send(self.connection, request, payload, fds=fds)
        return self._answer(request)

    def tell(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has no answer of its own."""
        send(self.connection, request, payload, NEED_REPLY if self.acknowledged else 0, fds)
        if self.acknowledged:
            self._refused(request, self._answer(request))

    def _answer(self, request: Request) -> Message:
        while (message := self._receiver.receive()) is None:
            pass
        if message.request != request or not message.flags & REPLY:
            message.close_fds()
            raise ProtocolViolation(
                f"{message.name} with flags {message.flags:#x} came, a reply to {request.name} is due"
            )
        return message

    def _refused(self, request: Request, message: Message) -> None:
        message.close_fds()
        value = self._u64(message)
        if value != 0:
            raise Refused(f"the back end refused {request.name}: it answered {value}, 0 means done")

    def _u64(self, message: Message) -> int:
        if len(message.payload) != U64.size:
            raise ProtocolViolation(f"reply to {message.name} has {len(message.payload)} bytes of payload, 8 are due")
        return int(U64.unpack(message.payload)[0])

    def ask_u64(self, request: Request) -> int:
        return self._u64(self.ask(request))

    # Features and the device as a whole

    def get_features(self) -> int:
        return self.ask_u64(Request.GET_FEATURES)

    def set_features(self, features: int) -> None:
        self.tell(Request.SET_FEATURES, U64.pack(features))

    def get_protocol_features(self) -> int:
        return self.ask_u64(Request.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, features: int) -> None:
        self.tell(Request.SET_PROTOCOL_FEATURES, U64.pack(features))

    def set_owner(self) -> None:
        self.tell(Request.SET_OWNER)

    def reset_owner(self) -> None:
        self.tell(Request.RESET_OWNER)

    def reset_device(self) -> None:
        self.tell(Request.RESET_DEVICE)

    def get_queue_num(self) -> int:
        return self.ask_u64(Request.GET_QUEUE_NUM)

    def get_status(self) -> int:
        return self.ask_u64(Request.GET_STATUS)

    def set_status(self, status: int) -> None:
        self.tell(Request.SET_STATUS, U64.pack(status))

    def net_set_mtu(self, mtu: int) -> None:
        self.tell(Request.NET_SET_MTU, U64.pack(mtu))

    def send_rarp(self, mac: bytes) -> None:
        self.tell(Request.SEND_RARP, mac.ljust(U64.size, b"\0"))

    # Memory

    def set_mem_table(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        table = MEMORY_HEADER.pack(len(regions), 0) + b"".join(region.pack() for region in regions)
        self.tell(Request.SET_MEM_TABLE, table, fds)

    def get_max_mem_slots(self) -> int:
        return self.ask_u64(Request.GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region: Region, fd: int) -> None:
        self.tell(Request.ADD_MEM_REG, self._single(region), [fd])

    def rem_mem_reg(self, region: Region) -> None:
        self.tell(Request.REM_MEM_REG, self._single(region))

    def _single(self, region: Region) -> bytes:
        return SINGLE_REGION.pack(0, region.guest, region.size, region.address, region.offset)

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        """Where to log dirty pages; answered (LOG_SHMFD) once the back end uses it."""
        self.ask(Request.SET_LOG_BASE, LOG_AREA.pack(size, offset), [fd])

    def get_inflight_fd(self, queues: int, queue_size: int) -> Inflight:
        """A new area for notes on unfinished buffers; its descriptor is the caller's."""
        message = self.ask(Request.GET_INFLIGHT_FD, INFLIGHT.pack(0, 0, queues, queue_size))
        if len(message.fds) != 1 or len(message.payload) != INFLIGHT.size:
            message.close_fds()
            raise ProtocolViolation(
                f"reply to GET_INFLIGHT_FD has {len(message.payload)} bytes and {len(message.fds)} descriptors, "
                f"{INFLIGHT.size} and 1 are due"
            )
        size, offset, of_queues, of_size = INFLIGHT.unpack(message.payload)
        return Inflight(message.fds[0], size, offset, of_queues, of_size)

    def set_inflight_fd(self, area: Inflight) -> None:
        payload = INFLIGHT.pack(area.size, area.offset, area.queues, area.queue_size)
        self.tell(Request.SET_INFLIGHT_FD, payload, [area.fd])

    # One ring

    def set_vring_num(self, index: int, size: int) -> None:
        self.tell(Request.SET_VRING_NUM, VRING_STATE.pack(index, size))

    def set_vring_base(self, index: int, base: int) -> None:
        self.tell(Request.SET_VRING_BASE, VRING_STATE.pack(index, base))

    def get_vring_base(self, index: int) -> int:
        """Stop a ring and return where it stands."""
        message = self.ask(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0))
        if len(message.payload) != VRING_STATE.size:
            raise ProtocolViolation(f"reply to GET_VRING_BASE has {len(message.payload)} bytes of payload, 8 are due")
        of_index, base = VRING_STATE.unpack(message.payload)
        if of_index != index:
            raise ProtocolViolation(f"reply to GET_VRING_BASE is of ring {of_index}, ring {index} was asked for")
        return int(base)

    def set_vring_addr(self, index: int, ring: int, device: int, driver: int, log: int | None = None) -> None:
        """Where the areas are, as addresses of this process; ``log``: the device area's guest address, to be logged."""
        flags = 0 if log is None else VRING_FLAG_LOG
        self.tell(Request.SET_VRING_ADDR, VRING_ADDRESS.pack(index, flags, ring, device, driver, log or 0))

    def set_vring_enable(self, index: int, enable: bool) -> None:
        self.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, int(enable)))

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        self._set_vring_fd(Request.SET_VRING_KICK, index, fd)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        self._set_vring_fd(Request.SET_VRING_CALL, index, fd)

    def set_vring_err(self, index: int, fd: int | None) -> None:
        self._set_vring_fd(Request.SET_VRING_ERR, index, fd)

    def _set_vring_fd(self, request: Request, index: int, fd: int | None) -> None:
        self.tell(request, U64.pack(index | (VRING_NO_FD if fd is None else 0)), [] if fd is None else [fd])


def mac_bytes(mac: str) -> bytes:
    """A MAC address from its usual text."""
    return bytes.fromhex(mac.replace(":", ""))


def close_inflight(area: Inflight | None) -> None:
    """Close the descriptor of an area, if there is one."""
    if area is not None:
        os.close(area.fd)
