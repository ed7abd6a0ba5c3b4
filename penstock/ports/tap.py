"""TAP ports: an Ethernet device that the host or a container uses, and whose other end is the port.

The device is made, or attached to when it exists and nobody has it open. It may be moved to another network namespace
afterwards: the descriptors stay, and what is looked up or changed later is done in the namespace where it is by then.
Frames carry virtio-net headers both ways, so unfinished checksums and 64 KB segments pass as they are.
Descriptors are kept outside the engine, so that the device outlives an engine that is killed. Main thread only; the
frames are moved by ``tap_kernels``.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import select
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

from annotated_types import Interval

from penstock.datapath.layout import OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_USO
from penstock.ports.base import Health, Port, PortError, RxSpec, TxSpec
from penstock.ports.netdev import Link, Links, check_name, is_current, parse_mac
from penstock.ports.spec import Doc
from penstock.ports.tap_kernels import tap_rx, tap_tx
from penstock.ports.vnet_kernels import VNET_HEADER

CLONE_DEVICE = "/dev/net/tun"
TUNSETIFF, TUNGETIFF = 0x400454CA, 0x800454D2
TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CB, 0x400454CC, 0x400454CE
TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNGETDEVNETNS = 0x400454D0, 0x400454D8, 0x54E3
IFF_TAP, IFF_MULTI_QUEUE, IFF_PERSIST, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x0100, 0x0800, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
SEGMENTS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
IFREQ = struct.Struct("16sH22x")

T = TypeVar("T")


@dataclass(frozen=True)
class TapOptions:
    """Settings of a TAP port."""

    device: Annotated[str | None, Doc("Name of the TAP device; the port's own name if not given.")] = None
    queues: Annotated[
        int, Interval(ge=1, le=8), Doc("Queues of the device, which several workers can share out among them.")
    ] = 1
    mac: Annotated[str | None, Doc("MAC address of the device; the kernel's choice if not given.")] = None
    persist: Annotated[bool, Doc("Whether the device stays when the port is removed or the switch stops.")] = False
    owner: Annotated[str | None, Doc("User (name or number) who may attach to the device, when it persists.")] = None
    group: Annotated[str | None, Doc("Group (name or number) that may attach to the device, when it persists.")] = None


class Tap(Port):
    """A port that is one end of a TAP device."""

    kind: ClassVar[str] = "tap"
    Options: ClassVar[type] = TapOptions
    makes_netdev: ClassVar[bool] = True

    _fds: list[int]

    def open(self) -> None:
        options = self.options
        self.netdev = options.device or self.name
        check_name(self.name, self.netdev)
        mac = None if options.mac is None else parse_mac(self.name, options.mac)
        self._fds = self._adopted() or self._attach()
        try:
            self._configure(mac)
        except BaseException:
            self._close_fds()
            raise
        self.context.keep(self._kept_as, self._fds)
        self.rx = [RxSpec(tap_rx.address, 0, fd=fd) for fd in self._fds]
        # Any number of workers may write to one descriptor, so each gets a transmit queue of its own.
        writers = max(len(self._fds), self.context.workers)
        self.tx = [TxSpec(tap_tx.address, 0, fd=self._fds[i % len(self._fds)], queue=i) for i in range(writers)]

    def device_to_delete(self) -> int:
        if self._present_name() is None or self._ask(self._fds[0])[1] & IFF_PERSIST:
            return 0
        namespace = self._namespace()
        if namespace is not None:
            here = is_current(namespace)
            os.close(namespace)
            if not here:
                return 0
        link = self._link()
        return 0 if link is None else link.index

    def close(self) -> None:
        self.context.forget(self._kept_as)
        self._close_fds()

    def set_mtu(self, mtu: int) -> None:
        self._change(lambda links, link: links.set_mtu(link.index, mtu), f"mtu {mtu}")
        self.mtu = mtu

    def set_up(self, up: bool) -> None:
        self._change(lambda links, link: links.set_up(link.index, up), f"state {'up' if up else 'down'}")

    def check(self) -> tuple[Health, str]:
        # The descriptor says it wherever the device is: writable only while it is up, in error once it is gone.
        poller = select.poll()
        poller.register(self._fds[0], select.POLLOUT)
        events = sum(event for _fd, event in poller.poll(0))
        name = self._present_name()
        if events & select.POLLERR or name is None:
            return "error", f"TAP device '{self.netdev}' was deleted: remove the port and add it again"
        self.netdev = name
        if not events & select.POLLOUT:
            return "down", f"TAP device '{self.netdev}' is down: ip link set {self.netdev} up"
        return "up", ""

    def driver_stats(self) -> dict[str, int]:
        link = self._link()
        if link is None:
            return {}
        # The kernel's transmit direction is the port's receive direction.
        return {"rx_queue_full": link.statistics["tx_dropped"], "tx_device_dropped": link.statistics["rx_dropped"]}

    def _ask(self, fd: int) -> tuple[str, int]:
        """Name and flags of the device behind a descriptor. Raises OSError (EBADFD) when it is gone."""
        name, flags = IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))
        return name.rstrip(b"\0").decode(errors="replace"), flags

    @property
    def _kept_as(self) -> str:
        """The name under which descriptors are kept: port and device as configured, since the device may be renamed."""
        return f"{self.name}/{self.options.device or self.name}"

    def _adopted(self) -> list[int] | None:
        """Descriptors that an earlier engine left, if they are this port's device as it should be; else None."""
        fds = self.context.adopt(self._kept_as)
        if not fds:
            return None
        wanted = self._flags()
        try:
            found = [self._ask(fd) for fd in fds]
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            found = []
        right = [flags & wanted == wanted for _name, flags in found]
        if len(right) == self.options.queues and all(right):
            return fds
        for fd in fds:
            os.close(fd)
        self.context.forget(self._kept_as)
        return None

    def _flags(self) -> int:
        return IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if self.options.queues > 1 else 0)

    def _attach(self) -> list[int]:
        """Make the device, or take the one that exists: one descriptor for each queue."""
        fds: list[int] = []
        request = IFREQ.pack(self.netdev.encode(), self._flags())
        try:
            for _ in range(self.options.queues):
                fds.append(os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
                fcntl.ioctl(fds[-1], TUNSETIFF, request)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise PortError(f"port '{self.name}': {self._why(error)}") from error
        return fds

    def _why(self, error: OSError) -> str:
        device = f"TAP device '{self.netdev}'"
        match error.errno:
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                return f"no {device}, as {CLONE_DEVICE} is missing: load the kernel module with 'modprobe tun'"
            case errno.EPERM | errno.EACCES:
                return f"no right to open {device}: run as root or with the capability CAP_NET_ADMIN"
            case errno.EBUSY:
                return f"{device} is in use by another process or port"
            case errno.EINVAL:
                return (
                    f"'{self.netdev}' exists and is not a TAP device with {self.options.queues} queue(s):"
                    " give another name with option 'device', other 'queues', or delete it"
                )
            case _:
                return f"{device} cannot be opened: {error.strerror}"

    def _configure(self, mac: bytes | None) -> None:
        """Offloads, ownership, address, MTU; then bring the device up."""
        self.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6
        for fd in self._fds:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
        first = self._fds[0]
        try:
            fcntl.ioctl(first, TUNSETOFFLOAD, SEGMENTS | TUN_F_USO4 | TUN_F_USO6)
            self.offloads |= OFFLOAD_USO
        except OSError:  # UDP segmentation came with Linux 6.2
            fcntl.ioctl(first, TUNSETOFFLOAD, SEGMENTS)
        self._share(first)
        if mac is not None:
            self._change(lambda links, link: links.set_mac(link.index, mac), f"mac {self.options.mac}")
        mtu = self.context.mtu
        if mtu is not None:
            self._change(lambda links, link: links.set_mtu(link.index, mtu), f"mtu {mtu}")
        self.set_up(True)
        link = self._link()
        if link is None:
            raise PortError(f"port '{self.name}': TAP device '{self.netdev}' was deleted while it was being set up")
        self.mtu, self.mac = link.mtu, link.mac

    def _share(self, fd: int) -> None:
        """Say whether the device stays without us, and who may open it then."""
        if self.options.owner is not None:
            fcntl.ioctl(fd, TUNSETOWNER, self._number("owner", self.options.owner, lambda n: pwd.getpwnam(n).pw_uid))
        if self.options.group is not None:
            fcntl.ioctl(fd, TUNSETGROUP, self._number("group", self.options.group, lambda n: grp.getgrnam(n).gr_gid))
        if self.options.persist:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)

    def _number(self, option: str, value: str, look_up: Callable[[str], int]) -> int:
        if value.isdigit():
            return int(value)
        try:
            return look_up(value)
        except KeyError:
            raise PortError(f"port '{self.name}': {option} '{value}' is neither known here nor a number") from None

    def _with_links(self, use: Callable[[Links, Link], T]) -> T | None:
        """Call ``use`` with the device's present namespace and state; None when the device is gone."""
        name = self._present_name()
        if name is None:
            return None
        namespace = self._namespace()
        try:
            with Links(namespace) as links:
                link = links.get(name)
                return None if link is None else use(links, link)
        finally:
            if namespace is not None:
                os.close(namespace)

    def _present_name(self) -> str | None:
        """The device's name, which may have been changed; None when the device is gone."""
        try:
            return self._ask(self._fds[0])[0]
        except OSError as error:
            if error.errno == errno.EBADFD:
                return None
            raise

    def _namespace(self) -> int | None:
        """A descriptor of the device's network namespace; None, for our own, where Linux is older than 5.2."""
        try:
            return fcntl.ioctl(self._fds[0], TUNGETDEVNETNS)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise

    def _link(self) -> Link | None:
        return self._with_links(lambda _links, link: link)

    def _change(self, change: Callable[[Links, Link], None], what: str) -> None:
        def apply(links: Links, link: Link) -> bool:
            change(links, link)
            return True

        try:
            done = self._with_links(apply)
        except OSError as error:
            text = f"port '{self.name}': TAP device '{self.netdev}' does not take {what}: {error.strerror}"
            raise PortError(text) from error
        if not done:
            raise PortError(f"port '{self.name}': TAP device '{self.netdev}' was deleted, so it cannot take {what}")

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
