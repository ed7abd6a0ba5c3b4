"""One front end's session: its messages carried out, in the order that they come, on the main thread.

Everything a front end says is checked; what the protocol does not allow raises ProtocolViolation, and the port ends the
connection. Source: "Vhost-user Protocol" in QEMU's documentation, section by section as the handlers are named.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from penstock.ports.vhost_user.dirty_log import DirtyLog
from penstock.ports.vhost_user.layout import REGIONS_MAX
from penstock.ports.vhost_user.memory import ADDRESS_MAX, GuestMemory, RegionSpec
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


class Owner(Protocol):
    """What a session tells its port."""

    def rings_changed(self) -> None:
        """Rings came into or went out of service, or their kick descriptors changed."""

    def features_changed(self, features: int) -> None:
        """The guest and we agreed on these features."""

    def mtu_changed(self, mtu: int) -> None:
        """The guest's MTU."""


class Session:
    """The state of one guest, from its connection to its end."""

    def __init__(
        self,
        owner: Owner,
        connection: socket.socket,
        offered: int,
        vrings: list[Vring],
        memory: GuestMemory,
        log: DirtyLog,
        progress: Progress,
    ) -> None:
        self._owner = owner
        self._connection = connection
        self.offered = offered
        self.vrings = vrings
        self.memory = memory
        self.log = log
        self.progress = progress
        self.features = 0
        self.protocol_features = 0
        self.status = 0
        self.mtu: int | None = None

    def handle(self, message: Message) -> None:
        """Carry out one message and answer it. Raises ProtocolViolation or OSError, and the session is over."""
        handler = HANDLERS.get(message.request)
        if handler is None:
            raise ProtocolViolation(f"{message.name} is not known here")
        wants_reply = bool(message.flags & NEED_REPLY) and self._has(ProtocolFeature.REPLY_ACK)
        try:
            answer = handler(self, message)
            if answer is not None:
                payload, fds = answer
                self._reply(message, payload, fds)
            elif wants_reply:
                self._reply(message, U64.pack(0))
        except Refused as error:
            # The front end asked to be told, or else nothing tells it: both sides would disagree from here on.
            if not wants_reply:
                raise ProtocolViolation(str(error)) from error
            LOG.warning("%s", error)
            self._reply(message, U64.pack(1))
        finally:
            message.close_fds()

    def _reply(self, message: Message, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        send(self._connection, message.request, payload, REPLY, fds)

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self.protocol_features >> feature & 1)

    def end(self) -> None:
        """Take everything out of service and let it go."""
        self.stop_rings()
        for vring in self.vrings:
            vring.forget()
        self.log.close()
        self.progress.renew()
        self.memory.replace([], [])

    def stop_rings(self) -> None:
        """Take every ring out of service."""
        for vring in self.vrings:
            vring.stop()
        self._owner.rings_changed()

    # Features

    def get_features(self, _message: Message) -> Answer:
        return U64.pack(self.offered), ()

    def set_features(self, message: Message) -> None:
        features = number(message)
        unknown = features & ~self.offered
        if unknown:
            raise ProtocolViolation(f"SET_FEATURES: {', '.join(names(unknown))} was not offered")
        changed = (features ^ self.features) & ~mask(Feature.LOG_ALL)
        if changed and any(vring.running for vring in self.vrings):
            raise ProtocolViolation(
                f"SET_FEATURES: {', '.join(names(changed))} cannot change while rings are in service"
            )
        self.features = features
        self._apply_features()

    def _apply_features(self) -> None:
        self.log.enable(bool(self.features & mask(Feature.LOG_ALL)))
        if not self.features & mask(Feature.PROTOCOL_FEATURES):
            for vring in self.vrings:
                vring.enabled = True  # nobody will say so
        self._owner.features_changed(self.features)

    def get_protocol_features(self, _message: Message) -> Answer:
        return U64.pack(PROTOCOL_FEATURES), ()

    def set_protocol_features(self, message: Message) -> None:
        features = number(message)
        unknown = features & ~PROTOCOL_FEATURES
        if unknown:
            raise ProtocolViolation(f"SET_PROTOCOL_FEATURES: {unknown:#x} was not offered")
        self.protocol_features = features

    def get_queue_num(self, _message: Message) -> Answer:
        return U64.pack(len(self.vrings) // 2), ()

    def set_owner(self, _message: Message) -> None:
        return None

    def reset_device(self, _message: Message) -> None:
        self.stop_rings()
        for vring in self.vrings:
            vring.forget()
        self.features, self.status = 0, 0
        self.log.enable(False)
        self._owner.features_changed(0)

    def set_status(self, message: Message) -> None:
        self.status = number(message) & 0xFF
        if self.status == 0:
            # QEMU 7 says so before it asks for the bases of the rings, which therefore keep where they were stopped.
            self.stop_rings()
            for vring in self.vrings:
                vring.has_kick = False

    def get_status(self, _message: Message) -> Answer:
        return U64.pack(self.status), ()

    # Memory

    def set_mem_table(self, message: Message) -> None:
        count, _padding = unpack(MEMORY_HEADER, message)
        if not 0 < count <= TABLE_REGIONS_MAX:
            raise ProtocolViolation(f"SET_MEM_TABLE: {count} regions are out of range: 1 to {TABLE_REGIONS_MAX}")
        body = message.payload[MEMORY_HEADER.size :]
        if len(body) < count * REGION.size:
            raise ProtocolViolation(f"SET_MEM_TABLE: {len(body)} bytes are too few for {count} regions")
        check_fds(message, count)
        specs = [RegionSpec(*REGION.unpack_from(body, index * REGION.size)) for index in range(count)]
        self._with_rings_stopped(lambda: self.memory.replace(specs, message.fds))
        self._start_ready_rings()

    def _with_rings_stopped(self, change: Callable[[], None]) -> None:
        """Change the memory that rings lie in, and put them back into service in the new one."""
        running = [vring for vring in self.vrings if vring.running]
        for vring in running:
            vring.stop()
        change()
        for vring in running:
            self._start(vring)
        if running:
            self._owner.rings_changed()

    def get_max_mem_slots(self, _message: Message) -> Answer:
        return U64.pack(REGIONS_MAX), ()

    def add_mem_reg(self, message: Message) -> None:
        spec = single_region(message)
        check_fds(message, 1)
        self.memory.add(spec, message.fds[0])
        self._start_ready_rings()

    def rem_mem_reg(self, message: Message) -> None:
        # Some front ends send the descriptor again; it is closed with the message.
        spec = single_region(message)
        for vring in self.vrings:
            if vring.running and vring.lies_in(spec):
                vring.stop()
                self._owner.rings_changed()
        self.memory.remove(spec)

    # Rings

    def _vring(self, index: int, message: Message) -> Vring:
        if index >= len(self.vrings):
            raise ProtocolViolation(f"{message.name}: virtqueue {index} is out of range: 0 to {len(self.vrings) - 1}")
        return self.vrings[index]

    def _stopped(self, index: int, message: Message) -> Vring:
        vring = self._vring(index, message)
        if vring.running:
            raise ProtocolViolation(f"{message.name}: {vring.name} is in service")
        return vring

    def set_vring_num(self, message: Message) -> None:
        index, size = unpack(VRING_STATE, message)
        self._stopped(index, message).set_size(size)

    def set_vring_addr(self, message: Message) -> None:
        index, flags, descriptors, used, available, log = unpack(VRING_ADDRESS, message)
        vring = self._vring(index, message)
        place = RingAddress(flags, descriptors, used, available, log)
        if log >= ADDRESS_MAX:
            raise ProtocolViolation(f"SET_VRING_ADDR: {vring.name}: log address {log:#x} is beyond every guest address")
        if vring.running:
            # Migration turns logging on and off by this message, under traffic.
            vring.stop()
        vring.place = place
        self._start_if_ready(vring)

    def set_vring_base(self, message: Message) -> None:
        index, base = unpack(VRING_STATE, message)
        self._stopped(index, message).base = base

    def get_vring_base(self, message: Message) -> Answer:
        index, _ = unpack(VRING_STATE, message)
        vring = self._vring(index, message)
        base = vring.stop()
        vring.has_kick = False  # which is what starts a ring again
        self._owner.rings_changed()
        return VRING_STATE.pack(index, base), ()

    def _event(self, message: Message) -> tuple[Vring, int]:
        """The ring and the eventfd (-1: none) that SET_VRING_KICK, CALL or ERR names."""
        word = number(message)
        vring = self._vring(word & VRING_INDEX_MASK, message)
        if word & VRING_NO_FD:
            return vring, -1
        check_fds(message, 1)
        check_eventfd(message.fds[0], f"{message.name}: the descriptor of {vring.name}")
        return vring, message.fds.pop()

    def set_vring_kick(self, message: Message) -> None:
        vring, fd = self._event(message)
        vring.stop()
        self._owner.rings_changed()  # the old descriptor is let go of before it is closed
        vring.set_kick(fd)
        self._start_if_ready(vring)

    def set_vring_call(self, message: Message) -> None:
        vring, fd = self._event(message)
        vring.set_call(fd)

    def set_vring_err(self, message: Message) -> None:
        _vring, fd = self._event(message)
        if fd >= 0:
            os.close(fd)  # a ring that is taken out of service ends the connection, which says more

    def set_vring_enable(self, message: Message) -> None:
        index, enable = unpack(VRING_STATE, message)
        vring = self._vring(index, message)
        vring.enabled = bool(enable)
        if not enable:
            vring.stop()
            self._owner.rings_changed()
        self._start_if_ready(vring)

    def _start_if_ready(self, vring: Vring) -> None:
        if not vring.running and vring.ready(self.memory):
            self._start(vring)
            self._owner.rings_changed()

    def _start_ready_rings(self) -> None:
        for vring in self.vrings:
            self._start_if_ready(vring)

    def _start(self, vring: Vring) -> None:
        vring.start(self.memory, self.features, self.progress.word(vring.index))

    # Migration

    def set_log_base(self, message: Message) -> Answer:
        size, offset = unpack(LOG_AREA, message)
        if not self._has(ProtocolFeature.LOG_SHMFD):
            raise ProtocolViolation("SET_LOG_BASE: log_shmfd was not agreed on")
        self.log.map(take_fd(message), size, offset)
        return U64.pack(0), ()

    def set_log_fd(self, message: Message) -> None:
        check_fds(message, 1)

    def send_rarp(self, message: Message) -> None:
        mac = number(message) & ((1 << MAC_BITS) - 1)
        sender = next((vring for vring in self.vrings if vring.sends and vring.running), None)
        if sender is None:
            raise Refused("SEND_RARP: no virtqueue that the guest sends by is in service")
        sender.announce(mac)
        self._owner.rings_changed()  # the worker may have left the queue alone

    def net_set_mtu(self, message: Message) -> None:
        mtu = number(message)
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise Refused(f"NET_SET_MTU: {mtu} is out of range: {MTU_MIN} to {MTU_MAX}")
        self.mtu = mtu
        self._owner.mtu_changed(mtu)

    def get_inflight_fd(self, message: Message) -> Answer:
        _size, _offset, queues, queue_size = unpack(INFLIGHT, message)
        if not 0 < queues <= len(self.vrings):
            raise ProtocolViolation(f"GET_INFLIGHT_FD: {queues} queues are out of range: 1 to {len(self.vrings)}")
        fd, size = Progress.new_area(queues)
        message.fds.append(fd)  # ours once it is sent: closed with the message
        return INFLIGHT.pack(size, 0, queues, queue_size), (fd,)

    def set_inflight_fd(self, message: Message) -> None:
        size, offset, queues, _queue_size = unpack(INFLIGHT, message)
        if not 0 < queues <= len(self.vrings):
            raise ProtocolViolation(f"SET_INFLIGHT_FD: {queues} queues are out of range: 1 to {len(self.vrings)}")
        if any(vring.running for vring in self.vrings):
            raise ProtocolViolation("SET_INFLIGHT_FD: rings are in service")
        self.progress.use(take_fd(message), size, offset, queues)
        for vring in self.vrings[:queues]:
            vring.resume_from(self.progress.word(vring.index))

    # Taking over from an engine that was killed

    def to_json(self) -> dict[str, Any]:
        """What a successor needs besides the descriptors of ``descriptors``, in that order."""
        return {
            "features": self.features,
            "protocol_features": self.protocol_features,
            "status": self.status,
            "mtu": self.mtu,
            "regions": [asdict(region.spec) for region in self.memory.regions],
            "log": {"size": self.log.size, "offset": self.log.offset} if self.log.fd >= 0 else None,
            "progress": self.progress.to_json(),
            "vrings": [vring.to_json() for vring in self.vrings],
        }

    def resume(self, mtu: int | None) -> None:
        """Put rings back into service after the state was set to a predecessor's."""
        self._apply_features()
        self.mtu = mtu
        if mtu is not None:
            self._owner.mtu_changed(mtu)
        self._start_ready_rings()


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


HANDLERS: dict[int, Callable[[Session, Message], Answer | None]] = {
    Request.GET_FEATURES: Session.get_features,
    Request.SET_FEATURES: Session.set_features,
    Request.SET_OWNER: Session.set_owner,
    Request.RESET_OWNER: Session.reset_device,
    Request.SET_MEM_TABLE: Session.set_mem_table,
    Request.SET_LOG_BASE: Session.set_log_base,
    Request.SET_LOG_FD: Session.set_log_fd,
    Request.SET_VRING_NUM: Session.set_vring_num,
    Request.SET_VRING_ADDR: Session.set_vring_addr,
    Request.SET_VRING_BASE: Session.set_vring_base,
    Request.GET_VRING_BASE: Session.get_vring_base,
    Request.SET_VRING_KICK: Session.set_vring_kick,
    Request.SET_VRING_CALL: Session.set_vring_call,
    Request.SET_VRING_ERR: Session.set_vring_err,
    Request.GET_PROTOCOL_FEATURES: Session.get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: Session.set_protocol_features,
    Request.GET_QUEUE_NUM: Session.get_queue_num,
    Request.SET_VRING_ENABLE: Session.set_vring_enable,
    Request.SEND_RARP: Session.send_rarp,
    Request.NET_SET_MTU: Session.net_set_mtu,
    Request.GET_INFLIGHT_FD: Session.get_inflight_fd,
    Request.SET_INFLIGHT_FD: Session.set_inflight_fd,
    Request.RESET_DEVICE: Session.reset_device,
    Request.GET_MAX_MEM_SLOTS: Session.get_max_mem_slots,
    Request.ADD_MEM_REG: Session.add_mem_reg,
    Request.REM_MEM_REG: Session.rem_mem_reg,
    Request.SET_STATUS: Session.set_status,
    Request.GET_STATUS: Session.get_status,
}
