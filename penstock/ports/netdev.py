"""Kernel net devices: look at them and change them, in this network namespace or in the one a TAP was moved to.

Speaks rtnetlink by ``ports.rtnetlink`` (RTM_GETLINK, RTM_NEWLINK; linux/if_link.h). Only the engine's main thread uses
this.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import secrets
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.ports.base import PortError
from penstock.ports.rtnetlink import NLM_F_ACK, Channel, attribute, attributes, open_netlink

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_STATS64, IFLA_GROUP, IFLA_CARRIER = 1, 3, 4, 10, 23, 27, 33
IFF_UP = 0x1
IFINFOMSG = struct.Struct("=BxHiII")
STATISTICS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
)

NAME_MAX = 15
CLONE_NEWNET = 0x40000000
SIOCETHTOOL = 0x8946
ETHTOOL_GFLAGS, ETHTOOL_SFLAGS = 0x25, 0x26
ETH_FLAG_LRO = 1 << 15
IFREQ_POINTER = struct.Struct("16sQ16x")

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Link:
    """A net device as it is now. ``statistics`` are the kernel's, seen from the host's side."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    master: int
    statistics: dict[str, int]


def check_name(port: str, device: str) -> None:
    """Raise PortError unless ``device`` can be the name of a net device."""
    fits = 0 < len(device.encode()) <= NAME_MAX and device not in (".", "..")
    if not fits or any(character in "/:%" or character.isspace() for character in device):
        raise PortError(
            f"port '{port}': '{device}' cannot name a net device: 1 to {NAME_MAX} bytes, no space and none of / : %"
            " (option 'device' gives the device another name than the port's)"
        )


def parse_mac(port: str, text: str) -> bytes:
    """The six bytes of a unicast MAC address such as ``02:00:00:00:00:01``. Raises PortError."""
    parts = text.split(":")
    try:
        mac = bytes(int(part, 16) for part in parts)
    except ValueError:
        mac = b""
    if len(mac) != 6 or any(len(part) != 2 for part in parts) or mac[0] & 1 or not any(mac):
        raise PortError(f"port '{port}': mac '{text}' is not a unicast MAC address such as 02:00:00:00:00:01")
    return mac


def is_current(namespace: int) -> bool:
    """Whether a descriptor is one of this thread's network namespace."""
    return os.path.samestat(os.fstat(namespace), Path("/proc/thread-self/ns/net").stat())


def _socket_in(namespace: int) -> socket.socket:
    """A netlink socket of the network namespace behind a descriptor: a socket stays in the one it was made in.

    It is not to be kept, as it would keep the namespace of a container that has ended.
    """
    if is_current(namespace):
        return open_netlink()
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def enter() -> None:
        try:
            if _LIBC.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            made.append(open_netlink())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=enter)  # entering changes a thread for good, so one is spent on it
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


class Links:
    """The net devices of one network namespace: the current one, or the one behind a descriptor."""

    def __init__(self, namespace: int | None = None) -> None:
        self._channel = Channel(open_netlink() if namespace is None else _socket_in(namespace))

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def _request(self, kind: int, index: int, change: tuple[int, int], attributes: bytes) -> bytes | None:
        """Send one request; the payload of the answer, None for a bare acknowledgement. Raises OSError."""
        body = IFINFOMSG.pack(0, 0, index, *change) + attributes
        flags = 0 if kind == RTM_GETLINK else NLM_F_ACK
        return next(iter(self._channel.ask(kind, flags, body)), None)

    def get(self, device: str | int) -> Link | None:
        """The device of this name or index; None when there is none."""
        index = device if isinstance(device, int) else 0
        name = b"" if isinstance(device, int) else attribute(IFLA_IFNAME, device.encode() + b"\0")
        try:
            answer = self._request(RTM_GETLINK, index, (0, 0), name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        assert answer is not None
        _family, _type, found, flags, _change = IFINFOMSG.unpack_from(answer)
        fields = dict(attributes(answer[IFINFOMSG.size :]))
        numbers = struct.unpack_from(f"={len(STATISTICS)}Q", fields[IFLA_STATS64])
        (mtu,), (master,) = (struct.unpack("=I", fields.get(kind, bytes(4))) for kind in (IFLA_MTU, IFLA_MASTER))
        return Link(
            index=found,
            name=fields[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
            mac=":".join(f"{byte:02x}" for byte in fields.get(IFLA_ADDRESS, b"")),
            mtu=mtu,
            up=bool(flags & IFF_UP),
            carrier=fields.get(IFLA_CARRIER, b"\1") == b"\1",
            master=master,
            statistics=dict(zip(STATISTICS, numbers, strict=True)),
        )

    def set_mtu(self, index: int, mtu: int) -> None:
        self._request(RTM_NEWLINK, index, (0, 0), attribute(IFLA_MTU, struct.pack("=I", mtu)))

    def set_mac(self, index: int, mac: bytes) -> None:
        self._request(RTM_NEWLINK, index, (0, 0), attribute(IFLA_ADDRESS, mac))

    def set_group(self, index: int, group: bytes) -> None:
        self._request(RTM_NEWLINK, index, (0, 0), group)

    def delete_group(self, group: bytes) -> None:
        self._request(RTM_DELLINK, 0, (0, 0), group)

    def set_up(self, index: int, up: bool) -> None:
        self._request(RTM_NEWLINK, index, (IFF_UP if up else 0, IFF_UP), b"")


def delete_devices(indices: Collection[int]) -> None:
    """Delete devices of this namespace together, which takes the kernel as long as one alone. Raises OSError."""
    if not indices:
        return
    group = attribute(IFLA_GROUP, struct.pack("=I", 1 << 31 | secrets.randbits(31)))
    with Links() as links:
        for index in indices:
            with _unless_gone():
                links.set_group(index, group)
        with _unless_gone():
            links.delete_group(group)


@contextmanager
def _unless_gone() -> Iterator[None]:
    """For a device that may have been deleted by others."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def set_large_receive(device: str, on: bool) -> bool:
    """Switch a device's large receive offload (LRO); whether it was on before. Devices without it say False."""
    block = array.array("I", [ETHTOOL_GFLAGS, 0])
    request = IFREQ_POINTER.pack(device.encode(), block.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            fcntl.ioctl(control, SIOCETHTOOL, request)
        except OSError:
            return False  # the driver has no such offloads
        was_on = bool(block[1] & ETH_FLAG_LRO)
        if was_on != on:
            block[0], block[1] = ETHTOOL_SFLAGS, block[1] ^ ETH_FLAG_LRO
            fcntl.ioctl(control, SIOCETHTOOL, request)
    return was_on
