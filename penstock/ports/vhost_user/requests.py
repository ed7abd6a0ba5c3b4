"""What a front end asks, message by message, in the order that they come; on the main thread.

Everything a front end says is checked; what the protocol does not allow raises ProtocolViolation, and the port ends the
connection. Source: "Vhost-user Protocol" in QEMU's documentation, section by section as the functions are named.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from penstock.ports.vhost_user.layout import REGIONS_MAX
from penstock.ports.vhost_user.memory import ADDRESS_MAX, RegionSpec
from penstock.ports.vhost_user.messages import (
    INFLIGHT,
    LOG_AREA,
    MEMORY_HEADER,
    NEED_REPLY,
    REGION,
    REPLY,
    SINGLE_REGION,
    TABLE_REGIONS_MAX,
    U64,
    VRING_ADDRESS,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    VRING_STATE,
    Message,
    ProtocolFeature,
    ProtocolViolation,
    Request,
    send,
)
from penstock.ports.vhost_user.progress import Progress
from penstock.ports.vhost_user.session import Session
from penstock.ports.vhost_user.virtio import Feature, mask, names
from penstock.ports.vhost_user.vring import RingAddress, Vring, check_eventfd

LOG = logging.getLogger("penstock.vhost_user")

MTU_MIN, MTU_MAX = 68, 65535
MAC_BITS = 48

PROTOCOL_FEATURES = sum(
    1 << bit
    for bit in (
        ProtocolFeature.MQ,
        ProtocolFeature.LOG_SHMFD,
        ProtocolFeature.RARP,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.MTU,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
        ProtocolFeature.STATUS,
    )
)


class Refused(Exception):
    """A request that cannot be carried out; the session goes on if the front end asked for a reply."""


Answer = tuple[bytes, tuple[int, ...]]


def unpack(layout: Any, message: Message) -> Any:
    """The numbers of a payload. Raises ProtocolViolation when it is too short."""
    if len(message.payload) < layout.size:
        raise ProtocolViolation(f"{message.name}: payload of {len(message.payload)} bytes, {layout.size} are meant")
    return layout.unpack_from(message.payload)


def number(message: Message) -> int:
    """The one number of a payload."""
    return int(unpack(U64, message)[0])


def check_fds(message: Message, count: int) -> None:
    """Raise ProtocolViolation unless so many descriptors came with a message."""
    if len(message.fds) != count:
        raise ProtocolViolation(f"{message.name}: {len(message.fds)} descriptors came with it instead of {count}")


def take_fd(message: Message) -> int:
    """The one descriptor of a message, the caller's now. Raises ProtocolViolation when there is not one."""
    check_fds(message, 1)
    return message.fds.pop()


def single_region(message: Message) -> RegionSpec:
    _padding, guest, size, user, offset = unpack(SINGLE_REGION, message)
    return RegionSpec(guest, size, user, offset)


def carry_out(session: Session, connection: socket.socket, message: Message) -> None:
    """Carry out one message and answer it. Raises ProtocolViolation or OSError, and the session is over."""
    handler = HANDLERS.get(message.request)
    if handler is None:
        message.close_fds()
        raise ProtocolViolation(f"{message.name} is not known here")
    wants_reply = bool(message.flags & NEED_REPLY) and session.has(ProtocolFeature.REPLY_ACK)
    try:
        answer = handler(session, message)
        if answer is not None:
            payload, fds = answer
            send(connection, message.request, payload, REPLY, fds)
        elif wants_reply:
            send(connection, message.request, U64.pack(0), REPLY)
    except Refused as error:
        # The front end asked to be told, or else nothing tells it: both sides would disagree from here on.
        if not wants_reply:
            raise ProtocolViolation(str(error)) from error
        LOG.warning("%s", error)
        send(connection, message.request, U64.pack(1), REPLY)
    finally:
        message.close_fds()


def get_features(session: Session, _message: Message) -> Answer:
    return U64.pack(session.offered), ()


def set_features(session: Session, message: Message) -> None:
    features = number(message)
    unknown = features & ~session.offered
    if unknown:
        raise ProtocolViolation(f"SET_FEATURES: {', '.join(names(unknown))} was not offered")
    changed = (features ^ session.features) & ~mask(Feature.LOG_ALL)
    if changed and any(vring.running for vring in session.vrings):
        raise ProtocolViolation(f"SET_FEATURES: {', '.join(names(changed))} cannot change while rings are in service")
    session.features = features
    session.apply_features()


def get_protocol_features(session: Session, _message: Message) -> Answer:
    return U64.pack(PROTOCOL_FEATURES), ()


def set_protocol_features(session: Session, message: Message) -> None:
    features = number(message)
    unknown = features & ~PROTOCOL_FEATURES
    if unknown:
        raise ProtocolViolation(f"SET_PROTOCOL_FEATURES: {unknown:#x} was not offered")
    session.protocol_features = features


def get_queue_num(session: Session, _message: Message) -> Answer:
    return U64.pack(len(session.vrings) // 2), ()


def set_owner(session: Session, _message: Message) -> None:
    return None


def reset_device(session: Session, _message: Message) -> None:
    session.stop_rings()
    for vring in session.vrings:
        vring.forget()
    session.features, session.status = 0, 0
    session.log.enable(False)
    session.owner.features_changed(0)


def set_status(session: Session, message: Message) -> None:
    session.status = number(message) & 0xFF
    if session.status == 0:
        # QEMU 7 says so before it asks for the bases of the rings, which therefore keep where they were stopped.
        session.stop_rings()
        for vring in session.vrings:
            vring.has_kick = False


def get_status(session: Session, _message: Message) -> Answer:
    return U64.pack(session.status), ()


def set_mem_table(session: Session, message: Message) -> None:
    count, _padding = unpack(MEMORY_HEADER, message)
    if not 0 < count <= TABLE_REGIONS_MAX:
        raise ProtocolViolation(f"SET_MEM_TABLE: {count} regions are out of range: 1 to {TABLE_REGIONS_MAX}")
    body = message.payload[MEMORY_HEADER.size :]
    if len(body) < count * REGION.size:
        raise ProtocolViolation(f"SET_MEM_TABLE: {len(body)} bytes are too few for {count} regions")
    check_fds(message, count)
    specs = [RegionSpec(*REGION.unpack_from(body, index * REGION.size)) for index in range(count)]
    session.with_rings_stopped(lambda: session.memory.replace(specs, message.fds))
    session.start_ready_rings()


def get_max_mem_slots(session: Session, _message: Message) -> Answer:
    return U64.pack(REGIONS_MAX), ()


def add_mem_reg(session: Session, message: Message) -> None:
    spec = single_region(message)
    check_fds(message, 1)
    session.memory.add(spec, message.fds[0])
    session.start_ready_rings()


def rem_mem_reg(session: Session, message: Message) -> None:
    # Some front ends send the descriptor again; it is closed with the message.
    spec = single_region(message)
    for vring in session.vrings:
        if vring.running and vring.lies_in(spec):
            vring.stop()
            session.owner.rings_changed()
    session.memory.remove(spec)


def vring_of(session: Session, index: int, message: Message) -> Vring:
    if index >= len(session.vrings):
        raise ProtocolViolation(f"{message.name}: virtqueue {index} is out of range: 0 to {len(session.vrings) - 1}")
    return session.vrings[index]


def stopped(session: Session, index: int, message: Message) -> Vring:
    vring = vring_of(session, index, message)
    if vring.running:
        raise ProtocolViolation(f"{message.name}: {vring.name} is in service")
    return vring


def set_vring_num(session: Session, message: Message) -> None:
    index, size = unpack(VRING_STATE, message)
    stopped(session, index, message).set_size(size)


def set_vring_addr(session: Session, message: Message) -> None:
    index, flags, descriptors, used, available, log = unpack(VRING_ADDRESS, message)
    vring = vring_of(session, index, message)
    place = RingAddress(flags, descriptors, used, available, log)
    if log >= ADDRESS_MAX:
        raise ProtocolViolation(f"SET_VRING_ADDR: {vring.name}: log address {log:#x} is beyond every guest address")
    if vring.running:
        # Migration turns logging on and off by this message, under traffic.
        vring.stop()
    vring.place = place
    session.start_if_ready(vring)


def set_vring_base(session: Session, message: Message) -> None:
    index, base = unpack(VRING_STATE, message)
    stopped(session, index, message).base = base


def get_vring_base(session: Session, message: Message) -> Answer:
    index, _ = unpack(VRING_STATE, message)
    vring = vring_of(session, index, message)
    base = vring.stop()
    vring.has_kick = False  # which is what starts a ring again
    session.owner.rings_changed()
    return VRING_STATE.pack(index, base), ()


def event_of(session: Session, message: Message) -> tuple[Vring, int]:
    """The ring and the eventfd (-1: none) that SET_VRING_KICK, CALL or ERR names."""
    word = number(message)
    vring = vring_of(session, word & VRING_INDEX_MASK, message)
    if word & VRING_NO_FD:
        return vring, -1
    check_fds(message, 1)
    check_eventfd(message.fds[0], f"{message.name}: the descriptor of {vring.name}")
    return vring, message.fds.pop()


def set_vring_kick(session: Session, message: Message) -> None:
    vring, fd = event_of(session, message)
    vring.stop()
    session.owner.rings_changed()  # the old descriptor is let go of before it is closed
    vring.set_kick(fd)
    session.start_if_ready(vring)


def set_vring_call(session: Session, message: Message) -> None:
    vring, fd = event_of(session, message)
    vring.set_call(fd)


def set_vring_err(session: Session, message: Message) -> None:
    _vring, fd = event_of(session, message)
    if fd >= 0:
        os.close(fd)  # a ring that is taken out of service ends the connection, which says more


def set_vring_enable(session: Session, message: Message) -> None:
    index, enable = unpack(VRING_STATE, message)
    vring = vring_of(session, index, message)
    vring.enabled = bool(enable)
    if not enable:
        vring.stop()
        session.owner.rings_changed()
    session.start_if_ready(vring)


def set_log_base(session: Session, message: Message) -> Answer:
    size, offset = unpack(LOG_AREA, message)
    if not session.has(ProtocolFeature.LOG_SHMFD):
        raise ProtocolViolation("SET_LOG_BASE: log_shmfd was not agreed on")
    session.log.map(take_fd(message), size, offset)
    return U64.pack(0), ()


def set_log_fd(session: Session, message: Message) -> None:
    check_fds(message, 1)


def send_rarp(session: Session, message: Message) -> None:
    mac = number(message) & ((1 << MAC_BITS) - 1)
    sender = next((vring for vring in session.vrings if vring.sends and vring.running), None)
    if sender is None:
        raise Refused("SEND_RARP: no virtqueue that the guest sends by is in service")
    sender.announce(mac)
    session.owner.rings_changed()  # the worker may have left the queue alone


def net_set_mtu(session: Session, message: Message) -> None:
    mtu = number(message)
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise Refused(f"NET_SET_MTU: {mtu} is out of range: {MTU_MIN} to {MTU_MAX}")
    session.mtu = mtu
    session.owner.mtu_changed(mtu)


def get_inflight_fd(session: Session, message: Message) -> Answer:
    _size, _offset, queues, queue_size = unpack(INFLIGHT, message)
    if not 0 < queues <= len(session.vrings):
        raise ProtocolViolation(f"GET_INFLIGHT_FD: {queues} queues are out of range: 1 to {len(session.vrings)}")
    fd, size = Progress.new_area(queues)
    message.fds.append(fd)  # ours once it is sent: closed with the message
    return INFLIGHT.pack(size, 0, queues, queue_size), (fd,)


def set_inflight_fd(session: Session, message: Message) -> None:
    size, offset, queues, _queue_size = unpack(INFLIGHT, message)
    if not 0 < queues <= len(session.vrings):
        raise ProtocolViolation(f"SET_INFLIGHT_FD: {queues} queues are out of range: 1 to {len(session.vrings)}")
    if any(vring.running for vring in session.vrings):
        raise ProtocolViolation("SET_INFLIGHT_FD: rings are in service")
    session.progress.use(take_fd(message), size, offset, queues)
    for vring in session.vrings[:queues]:
        vring.resume_from(session.progress.word(vring.index))


HANDLERS: dict[int, Callable[[Session, Message], Answer | None]] = {
    Request.GET_FEATURES: get_features,
    Request.SET_FEATURES: set_features,
    Request.SET_OWNER: set_owner,
    Request.RESET_OWNER: reset_device,
    Request.SET_MEM_TABLE: set_mem_table,
    Request.SET_LOG_BASE: set_log_base,
    Request.SET_LOG_FD: set_log_fd,
    Request.SET_VRING_NUM: set_vring_num,
    Request.SET_VRING_ADDR: set_vring_addr,
    Request.SET_VRING_BASE: set_vring_base,
    Request.GET_VRING_BASE: get_vring_base,
    Request.SET_VRING_KICK: set_vring_kick,
    Request.SET_VRING_CALL: set_vring_call,
    Request.SET_VRING_ERR: set_vring_err,
    Request.GET_PROTOCOL_FEATURES: get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: set_protocol_features,
    Request.GET_QUEUE_NUM: get_queue_num,
    Request.SET_VRING_ENABLE: set_vring_enable,
    Request.SEND_RARP: send_rarp,
    Request.NET_SET_MTU: net_set_mtu,
    Request.GET_INFLIGHT_FD: get_inflight_fd,
    Request.SET_INFLIGHT_FD: set_inflight_fd,
    Request.RESET_DEVICE: reset_device,
    Request.GET_MAX_MEM_SLOTS: get_max_mem_slots,
    Request.ADD_MEM_REG: add_mem_reg,
    Request.REM_MEM_REG: rem_mem_reg,
    Request.SET_STATUS: set_status,
    Request.GET_STATUS: get_status,
}
