"""What the database tells of the devices behind interfaces: the kernel's answers by ethtool (linux/ethtool.h), the
state of a virtual machine's connection, the device by which a tunnel's packets leave. The control process alone.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.ports.spec import PortSpec, PortState

SIOCGIFFLAGS, SIOCETHTOOL = 0x8913, 0x8946
ETHTOOL_GSET, ETHTOOL_GDRVINFO = 0x01, 0x03
IFF_UP, IFF_RUNNING = 0x1, 0x40
FLAGS = struct.Struct("16sH22x")  # struct ifreq, with flags
POINTER = struct.Struct("16sQ16x")  # and with the address of a request
SETTINGS = struct.Struct("=III HBB BBBB II HBB I 8x")  # struct ethtool_cmd
DRIVER = struct.Struct("=I32s32s32s96x")  # struct ethtool_drvinfo
SPEED_UNKNOWN = (0, 0xFFFF, 0xFFFFFFFF)
DUPLEX = {0: "half", 1: "full"}
MEGABIT = 1_000_000
NAME_MAX = 15
GUEST = "vhost-user"  # the kind of port of virtual machines


@dataclass(frozen=True)
class Device:
    """What a kernel device says of itself; ``speed`` is in bits a second, None if it has none."""

    up: bool
    running: bool
    speed: int | None = None
    duplex: str = ""
    status: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Detail:
    """What is told of an interface beside its port's state; ``ifindex`` 0: it has no kernel device here."""

    ifindex: int = 0
    device: Device | None = None
    status: Mapping[str, str] = field(default_factory=dict)


class Devices:
    """Asks the kernel about devices, again when one has changed as far as its port tells, and after ``forget``."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._known: dict[tuple[str, int, str, str], Device | None] = {}

    def close(self) -> None:
        self._socket.close()

    def forget(self) -> None:
        """Have the kernel be asked about every device again: a link's speed may change by itself."""
        self._known = {}

    def details(
        self,
        states: Mapping[str, PortState],
        drivers: Mapping[str, Mapping[str, int]],
        tunnels: Sequence[Mapping[str, Any]],
    ) -> dict[str, Detail]:
        """By interface; ``drivers`` and ``tunnels`` are as EngineClient tells them."""
        indices = {name: index for index, name in socket.if_nameindex()}
        names = {index: name for name, index in indices.items()}
        leaving = {row["port"]: names.get(row["device"], "") for row in tunnels if row["device"]}
        known, self._known = self._known, {}
        found = {}
        for name, state in states.items():
            index = indices.get(state.netdev, 0)
            device, status = None, {}
            if index:
                key = state.netdev, index, state.state, state.error
                device = self._known[key] = known[key] if key in known else self.ask(state.netdev)
                status = dict(device.status) if device is not None else {}
            elif state.spec.kind == GUEST:
                status = _guest(state, drivers.get(name, {}))
            elif far_end(state.spec) and leaving.get(name):
                egress = self.ask(leaving[name])
                carrier = "up" if egress is not None and egress.running else "down"
                status = {"tunnel_egress_iface": leaving[name], "tunnel_egress_iface_carrier": carrier}
            found[name] = Detail(index, device, status)
        return found

    def ask(self, name: str) -> Device | None:
        """What the kernel says of a device now; None if there is none of this name."""
        try:
            _, flags = FLAGS.unpack(fcntl.ioctl(self._socket, SIOCGIFFLAGS, FLAGS.pack(name.encode()[:NAME_MAX], 0)))
        except OSError:
            return None
        speed, duplex = None, ""
        if (found := self._ethtool(name, ETHTOOL_GSET, SETTINGS)) is not None:
            megabits = found[3] | found[12] << 16
            if megabits not in SPEED_UNKNOWN:
                speed, duplex = megabits * MEGABIT, DUPLEX.get(found[4], "")
        status = {}
        if (found := self._ethtool(name, ETHTOOL_GDRVINFO, DRIVER)) is not None:
            keys = ("driver_name", "driver_version", "firmware_version")
            status = {
                key: raw.split(b"\0")[0].decode(errors="replace") for key, raw in zip(keys, found[1:], strict=True)
            }
        return Device(bool(flags & IFF_UP), bool(flags & IFF_RUNNING), speed, duplex, status)

    def _ethtool(self, name: str, command: int, form: struct.Struct) -> tuple[Any, ...] | None:
        """The fields of an ethtool command's answer; None if the device's driver has none."""
        block = array.array("B", struct.pack("=I", command).ljust(form.size, b"\0"))
        try:
            fcntl.ioctl(self._socket, SIOCETHTOOL, POINTER.pack(name.encode()[:NAME_MAX], block.buffer_info()[0]))
        except OSError:
            return None
        return form.unpack(block)


def far_end(spec: PortSpec) -> str:
    """The one far end that a port leads to if it is a tunnel of one; else ""."""
    remote = spec.options.get("remote_ip")
    return "" if remote in (None, "flow") else str(remote)


def _guest(state: PortState, driver: Mapping[str, int]) -> dict[str, str]:
    """A virtual machine's connection, in the words that Open vSwitch has for it."""
    status = {
        "mode": str(state.spec.options.get("mode", "")),
        "socket": str(state.spec.options.get("path", "")),
        "status": "connected" if "features" in driver else "disconnected",
    }
    if "features" in driver:
        status |= {"features": f"{driver['features']:#018x}", "num_of_vrings": str(driver.get("rings", 0))}
    return status
