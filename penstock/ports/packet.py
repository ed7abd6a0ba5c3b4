"""Packet ports: any existing net device (veth, a physical card), by packet sockets with memory-mapped rings.

Everything that comes in on the device is received, whatever its destination, and what the port sends leaves by the
device. Frames carry virtio-net headers both ways, so unfinished checksums and 64 KB segments of a peer in the same
kernel pass as they are, and the kernel segments and finishes checksums for devices that cannot. Large receive offload
(LRO) is off while the port is open: its frames cannot be sent on. Main thread only; ``packet_kernels`` moves frames.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval, MinLen

from penstock.datapath.layout import OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_USO
from penstock.machine import records
from penstock.ports import packet_host
from penstock.ports.base import Health, Port, PortError, RxSpec, TxSpec
from penstock.ports.netdev import Link, Links, check_name, set_large_receive
from penstock.ports.packet_kernels import PACKET_QUEUE, packet_release, packet_rx, packet_tx
from penstock.ports.packet_socket import PacketSocket
from penstock.ports.spec import Doc

UDP_SEGMENTATION_SINCE = (6, 2)


@dataclass(frozen=True)
class PacketOptions:
    """Settings of a packet port."""

    netdev: Annotated[str, MinLen(1), Doc("Name of the existing net device that becomes the port.")]
    queues: Annotated[
        int, Interval(ge=1, le=8), Doc("Receive queues, among which the kernel spreads flows, for several workers.")
    ] = 1
    ring: Annotated[
        int,
        Interval(ge=32, le=4096),
        Doc("Frames that each receive queue can hold, at 68 KB of memory each; rounded up to a multiple of 15."),
    ] = 256


class Packet(Port):
    """A port that is an existing net device."""

    kind: ClassVar[str] = "packet"
    Options: ClassVar[type] = PacketOptions

    def open(self) -> None:
        self.netdev = self.options.netdev
        check_name(self.name, self.netdev)
        self._sockets: list[PacketSocket] = []
        self._blocks: list[int] = []
        self._claims: list[socket.socket] = []
        self._settings: dict[Path, str] = {}
        self._large_receive = False
        self._index = 0
        try:
            self._open()
        except OSError as error:
            self.close()
            raise PortError(f"port '{self.name}': {self._why(error)}") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with Links() as links:
            link = links.get(self.netdev)
            if link is None:
                raise PortError(
                    f"port '{self.name}': netdev '{self.netdev}' does not exist in this network namespace"
                    " ('ip link' lists those that do)"
                )
            if link.master:
                master = links.get(link.master)
                raise PortError(
                    f"port '{self.name}': netdev '{self.netdev}' is already in use by"
                    f" '{master.name if master else link.master}': ip link set {self.netdev} nomaster"
                )
            self._index = link.index
            self._claims = packet_host.claim(link.index, self.netdev, self.name)
            if self.context.mtu is not None:
                self._set_mtu(links, self.context.mtu)
            self._settings = packet_host.silence(self.netdev)
            self._large_receive = set_large_receive(self.netdev, on=False)
            if not link.up:
                links.set_up(link.index, True)
            self._open_sockets()
            link = links.get(link.index) or link
        self.mtu, self.mac = link.mtu, link.mac
        self.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6
        release = os.uname().release.split(".")
        if (int(release[0]), int(release[1])) >= UDP_SEGMENTATION_SINCE:
            self.offloads |= OFFLOAD_USO

    def _open_sockets(self) -> None:
        group = None
        for _ in range(self.options.queues):
            opened = PacketSocket(self._index, self.options.ring)
            self._sockets.append(opened)
            if self.options.queues > 1:
                group = opened.join(group)
                opened.discard()
        self.rx = [
            RxSpec(packet_rx.address, self._queue(opened), fd=opened.fd, release=packet_release.address)
            for opened in self._sockets
        ]
        # Any number of workers may send on one socket, so each gets a transmit queue of its own.
        writers = max(len(self._sockets), self.context.workers)
        fds = [self._sockets[i % len(self._sockets)].fd for i in range(writers)]
        self.tx = [TxSpec(packet_tx.address, 0, fd=fd, queue=i) for i, fd in enumerate(fds)]

    def _queue(self, opened: PacketSocket) -> int:
        """A PACKET_QUEUE and its table of slots, in the arena."""
        arena = self.context.arena
        count = len(opened.slots)
        queue, table = arena.allocate(PACKET_QUEUE.itemsize), arena.allocate(8 * count)
        self._blocks += [queue, table]
        records(np.dtype("i8"), table, count)[:] = opened.slots
        record = records(PACKET_QUEUE, queue)[0]
        record["slots"], record["count"], record["next"] = table, count, opened.first
        return queue

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()
        for block in self._blocks:
            self.context.arena.free(block)
        self._sockets, self._blocks = [], []
        with Links() as links:
            link = links.get(self._index) if self._index else None
        if link is not None and link.name == self.netdev:
            packet_host.restore(self._settings)
            if self._large_receive:
                set_large_receive(self.netdev, on=True)
        for each in self._claims:
            each.close()
        self._claims = []

    def set_mtu(self, mtu: int) -> None:
        with Links() as links:
            self._set_mtu(links, mtu)
        self.mtu = mtu

    def _set_mtu(self, links: Links, mtu: int) -> None:
        try:
            links.set_mtu(self._index, mtu)
        except OSError as error:
            text = f"port '{self.name}': netdev '{self.netdev}' does not take mtu {mtu}: {error.strerror}"
            raise PortError(text) from error

    def set_up(self, up: bool) -> None:
        try:
            with Links() as links:
                links.set_up(self._index, up)
        except OSError as error:
            state = "up" if up else "down"
            text = f"port '{self.name}': netdev '{self.netdev}' cannot be taken {state}: {error.strerror}"
            raise PortError(text) from error

    def check(self) -> tuple[Health, str]:
        link = self._link()
        if link is None:
            return "error", f"netdev '{self.netdev}' was deleted or moved to another network namespace"
        self.mtu = link.mtu  # the operator may have changed it with ip link
        if not link.up:
            return "down", f"netdev '{self.netdev}' is down: ip link set {self.netdev} up"
        if not link.carrier:
            return "down", f"netdev '{self.netdev}' has no carrier: its cable or its peer device is down"
        return "up", ""

    def driver_stats(self) -> dict[str, int]:
        link = self._link()
        stats = {"rx_ring_full": sum(opened.count_drops() for opened in self._sockets)}
        if link is not None:
            stats["rx_device_dropped"] = link.statistics["rx_dropped"]
            stats["tx_device_dropped"] = link.statistics["tx_dropped"]
        return stats

    def _link(self) -> Link | None:
        with Links() as links:
            return links.get(self._index)

    def _why(self, error: OSError) -> str:
        match error.errno:
            case errno.EPERM | errno.EACCES:
                return (
                    f"no right to open a packet socket on netdev '{self.netdev}':"
                    " run as root or with the capabilities CAP_NET_RAW and CAP_NET_ADMIN"
                )
            case errno.EAFNOSUPPORT:
                return "this kernel has no packet sockets: load the kernel module with 'modprobe af_packet'"
            case errno.ENOMEM:
                size = self.options.ring * self.options.queues * 68 >> 10
                return f"no memory for receive rings of {size} MB on netdev '{self.netdev}': lower option 'ring'"
            case _:
                return f"netdev '{self.netdev}' cannot be opened: {error.strerror}"
