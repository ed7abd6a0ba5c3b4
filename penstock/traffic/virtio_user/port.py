"""A virtio guest as a port: the driver's side of a network device whose other side is a vhost-user back end.

What a virtual machine's kernel and QEMU do together: the handshake on the socket, the rings in shared memory. The arena
itself is the guest's memory, so the back end reads frames from where they lie in it. Everything here runs on the main
thread and may block up to ``seconds`` for each answer; no kernel may use the queues during ``open``, ``reconnect``,
``suspend``, ``resume`` and ``close``.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from penstock.memory import ARENA_BASE
from penstock.ports.base import Health, Port, PortError, RxSpec, TxSpec
from penstock.ports.vhost_user.messages import ProtocolFeature, ProtocolViolation
from penstock.ports.vhost_user.virtio import Feature, mask
from penstock.traffic.virtio_user import packed, split
from penstock.traffic.virtio_user.features import (
    PROTOCOL_FEATURES,
    VirtioUserOptions,
    negotiate,
    takes_large,
    transmit_offloads,
)
from penstock.traffic.virtio_user.front import (
    FrontEnd,
    Inflight,
    Refused,
    Region,
    accept,
    close_inflight,
    dial,
    listen,
    mac_bytes,
)
from penstock.traffic.virtio_user.layout import FAULT_TEXTS, Fault
from penstock.traffic.virtio_user.log import DirtyLog
from penstock.traffic.virtio_user.queue import QueueShape, Virtqueue

REGION_ALIGN = 2 << 20
LARGE_BUFFER = 65536 + 64  # a 64 KB frame with its headers
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


class VirtioUser(Port):
    """A guest with one network device. ``receiving`` and ``sending`` are its virtqueues, one pair after the other."""

    kind: ClassVar[str] = "virtio-user"
    Options: ClassVar[type] = VirtioUserOptions

    options: VirtioUserOptions

    def open(self) -> None:
        self.front: FrontEnd | None = None
        self.receiving: list[Virtqueue] = []
        self.sending: list[Virtqueue] = []
        self.features = self.protocol_features = 0
        self.log: DirtyLog | None = None
        self._inflight: Inflight | None = None
        self._listener: socket.socket | None = None
        self.mtu = self.context.mtu or 1500
        self.mac = self.options.mac
        try:
            if self.options.mode == "server":
                self._listener = listen(Path(self.options.path))
            self._connect()
            self._share_memory()
            self._make_queues()
            self._start([queue.start for queue in self.queues])
        except (OSError, ProtocolViolation, Refused) as error:
            text = self._why(error)
            self.close()
            raise PortError(f"port '{self.name}': {text}") from error
        except BaseException:
            self.close()
            raise

    def _why(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            what = "connected to" if self.front is None and self.options.mode == "server" else "answered at"
            return f"no back end {what} {self.options.path} within {self.options.seconds:g} s"
        return f"back end at {self.options.path}: {error}"

    def close(self) -> None:
        self._disconnect()
        for queue in self.queues:
            queue.close()
        self.receiving, self.sending, self.rx, self.tx = [], [], [], []
        if self._listener is not None:
            self._listener.close()
            Path(self.options.path).unlink(missing_ok=True)
            self._listener = None

    def _disconnect(self) -> None:
        if self.front is not None:
            self.front.close()
            self.front = None
        close_inflight(self._inflight)
        self._inflight = None
        if self.log is not None:
            self.log.close()
            self.log = None

    @property
    def queues(self) -> list[Virtqueue]:
        """All virtqueues in the order of their index on the socket."""
        return [queue for pair in zip(self.receiving, self.sending, strict=True) for queue in pair]

    @property
    def regions(self) -> list[Region]:
        """The arena as regions of guest memory, one behind the other."""
        size = self.context.arena.size
        part = -(-size // self.options.regions // REGION_ALIGN) * REGION_ALIGN
        starts = range(0, size, part)
        guest = self.options.guest_address
        return [Region(guest + at, min(part, size - at), ARENA_BASE + at, at) for at in starts]

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self.protocol_features >> feature & 1)

    @property
    def peer(self) -> FrontEnd:
        """The connection. Raises PortError when there is none."""
        if self.front is None:
            raise PortError(f"port '{self.name}': not connected to a back end")
        return self.front

    def _connect(self) -> None:
        """Connect, and agree on features."""
        seconds = self.options.seconds
        connection = accept(self._listener, seconds) if self._listener else dial(Path(self.options.path), seconds)
        self.front = front = FrontEnd(connection)
        offered = front.get_features()
        self.features = negotiate(self.name, self.options, offered)
        self.protocol_features = 0
        if self.features & mask(Feature.PROTOCOL_FEATURES):
            self.protocol_features = front.get_protocol_features() & PROTOCOL_FEATURES
            front.set_protocol_features(self.protocol_features)
            front.acknowledged = self._has(ProtocolFeature.REPLY_ACK)
        pairs = 1
        if self._has(ProtocolFeature.MQ):
            pairs = front.get_queue_num()
        if pairs < self.options.queues:
            raise PortError(
                f"port '{self.name}': queues {self.options.queues} is too many,"
                f" the back end at {self.options.path} has {pairs}"
            )
        front.set_owner()
        self._set_status(ACKNOWLEDGE | DRIVER)
        front.set_features(self.features)
        if self._has(ProtocolFeature.STATUS):
            self._set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
            status = front.get_status()
            if not status & FEATURES_OK:
                raise PortError(
                    f"port '{self.name}': the back end at {self.options.path} does not take the features"
                    f" {self.features:#x}: its status is {status:#x} without FEATURES_OK"
                )
        self.offloads = transmit_offloads(self.features)
        if self._has(ProtocolFeature.MTU) and self.context.mtu is not None:
            front.net_set_mtu(self.context.mtu)

    def _set_status(self, status: int) -> None:
        if self._has(ProtocolFeature.STATUS):
            self.peer.set_status(status)

    def _make_queues(self) -> None:
        """Make the rings, and what workers know of them."""
        options = self.options
        merged = self.features & mask(Feature.NET_MRG_RXBUF)
        room = options.buffer if merged or not takes_large(self.features) else max(options.buffer, LARGE_BUFFER)
        layout_is_free = self.features & mask(Feature.VERSION_1, Feature.ANY_LAYOUT)
        apart = options.header_apart or not layout_is_free
        delta = options.guest_address - ARENA_BASE
        into = QueueShape(options.ring, True, room, self.features, delta, sleeps=not options.poll)
        out = replace(into, receives=False, room=options.buffer, sleeps=False, apart=apart, in_place=options.in_place)
        for _ in range(options.queues):
            self.receiving.append(Virtqueue(self.context.arena, into))
            self.sending.append(Virtqueue(self.context.arena, out))
        if self.features & mask(Feature.RING_PACKED):
            rx, release, pending, tx = packed.packed_rx, packed.packed_release, packed.packed_pending, packed.packed_tx
        else:
            rx, release, pending, tx = split.split_rx, split.split_release, split.split_pending, split.split_tx
        self.rx = [
            RxSpec(
                rx.address,
                queue.ctx,
                fd=-1 if options.poll else queue.call,
                release=release.address,
                pending=pending.address,
            )
            for queue in self.receiving
        ]
        self.tx = [TxSpec(tx.address, queue.ctx, fd=queue.kick, queue=i) for i, queue in enumerate(self.sending)]

    def _start(self, bases: Sequence[int]) -> None:
        """Tell the back end of the rings, and let it begin."""
        front = self.peer
        for index, (queue, base) in enumerate(zip(self.queues, bases, strict=True)):
            front.set_vring_call(index, queue.call)
            front.set_vring_num(index, queue.shape.size)
            front.set_vring_addr(index, *queue.addresses)
            front.set_vring_base(index, base)
            front.set_vring_kick(index, queue.kick)
        if self.features & mask(Feature.PROTOCOL_FEATURES):
            for index in range(len(self.queues)):
                front.set_vring_enable(index, True)
        self._set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        for queue in self.queues:
            queue.ring_doorbell()

    def _share_memory(self) -> None:
        """Tell a new back end of the guest's memory, and of the area for unfinished buffers."""
        front, fd = self.peer, self.context.arena.fd
        if self._has(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            slots = front.get_max_mem_slots()
            if slots < len(self.regions):
                raise PortError(
                    f"port '{self.name}': regions {len(self.regions)} is too many, the back end takes {slots}"
                )
            for region in self.regions:
                front.add_mem_reg(region, fd)
        else:
            front.set_mem_table(self.regions, [fd] * len(self.regions))
        if self._has(ProtocolFeature.INFLIGHT_SHMFD):
            if self._inflight is None:
                self._inflight = front.get_inflight_fd(2 * self.options.queues, self.options.ring)
            front.set_inflight_fd(self._inflight)

    def suspend(self) -> list[int]:
        """Stop all rings: where each stands, as ``resume`` takes it."""
        return [self.peer.get_vring_base(index) for index in range(len(self.queues))]

    def resume(self, bases: Sequence[int]) -> None:
        """Let the rings go on, at the same back end, from where ``suspend`` found them."""
        self._start(bases)

    def reconnect(self, keep_rings: bool = False, bases: Sequence[int] | None = None) -> None:
        """Do the handshake again, with a new back end. Raises PortError; it can then be tried again.

        Rings are emptied, as by a guest that starts; with ``keep_rings`` they go on where the last back end used
        buffers last, or at ``bases``, as when a switch was restarted or the guest moved to another host.
        """
        kept, self._inflight = self._inflight, None
        before = self.features
        self._disconnect()
        if keep_rings:
            self._inflight = kept
        else:
            close_inflight(kept)
        try:
            self._connect()
            if self.features != before:
                raise PortError(
                    f"port '{self.name}': the back end's features changed from {before:#x} to {self.features:#x},"
                    " the rings cannot go on: open the port anew"
                )
            self._share_memory()
            if not keep_rings:
                for queue in self.queues:
                    queue.reset()
            self._start(bases or [queue.base_of_used if keep_rings else queue.start for queue in self.queues])
        except BaseException as error:
            text = self._why(error)
            if self.front is not None:
                self.front.close()
                self.front = None
            if isinstance(error, (OSError, ProtocolViolation, Refused)):
                raise PortError(f"port '{self.name}': {text}") from error
            raise

    def check(self) -> tuple[Health, str]:
        if self.front is None or self.front.lost:
            return "down", f"the back end at {self.options.path} closed the connection"
        for index, queue in enumerate(self.queues):
            fault = Fault(int(queue.row["error"]))
            if fault:
                return "error", f"virtqueue {index}: the back end at {self.options.path} {FAULT_TEXTS[fault]}"
        return "up", ""

    def set_mtu(self, mtu: int) -> None:
        if self._has(ProtocolFeature.MTU):
            self.peer.net_set_mtu(mtu)
        self.mtu = mtu

    def announce(self) -> None:
        """Have the back end announce the guest's MAC address. Raises PortError when it cannot."""
        if not self._has(ProtocolFeature.RARP):
            raise PortError(f"port '{self.name}': the back end at {self.options.path} does not offer RARP")
        self.peer.send_rarp(mac_bytes(self.mac))

    def start_log(self) -> DirtyLog:
        """Have the back end log its writes, from here on, to a fresh log. Raises PortError when it cannot."""
        if not self._has(ProtocolFeature.LOG_SHMFD):
            raise PortError(f"port '{self.name}': the back end at {self.options.path} does not offer LOG_SHMFD")
        last = self.regions[-1]
        fresh = DirtyLog(last.guest + last.size)
        self.peer.set_log_base(fresh.size, 0, fresh.fd)
        if self.log is not None:
            self.log.close()
        self.log = fresh
        self._set_logging(True)
        return fresh

    def stop_log(self) -> None:
        """Have the back end log no more."""
        self._set_logging(False)

    def _set_logging(self, on: bool) -> None:
        self.peer.set_features(self.features | (mask(Feature.LOG_ALL) if on else 0))
        for index, queue in enumerate(self.queues):
            ring, device, driver = queue.addresses
            self.peer.set_vring_addr(index, ring, device, driver, device + queue.shape.delta if on else None)

    def driver_stats(self) -> dict[str, int]:
        """Kicks sent to the back end, and interrupts taken from it."""
        return {name: sum(int(queue.row[name]) for queue in self.queues) for name in ("kicks", "wakes")}
