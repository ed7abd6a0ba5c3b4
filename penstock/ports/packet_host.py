"""A net device that becomes a port: claimed for one port only, and the host's own stack kept from talking through it.

The kernel hands each frame that comes in on the device to packet sockets and then to its own protocols as well. Those
would send router solicitations and multicast reports into the bridge, and answer ARP for any address that the host has
anywhere. So on a device without addresses both are switched off (disable_ipv6, arp_ignore) and put back at the end.
A device with addresses is left alone: somebody means to use it. Main thread only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from pathlib import Path

from penstock.ports.base import PortError

SIOCGIFADDR = 0x8915
IPV6_SCOPE_LINK = "20"
ARP_IGNORE_ALL = "8"
LABEL = re.compile(r"@(penstock/netdev/\d+)/by/(\d+)/(.*)$")
SOCKET_NAME_MAX = 107


def claim(index: int, netdev: str, port: str) -> list[socket.socket]:
    """Sockets that mark the device as this port's while they are open, in all processes of its network namespace.

    Their names are abstract, so a process that dies leaves nothing: one name can be bound by only one, the other tells
    by whom. Raises PortError naming the port that has the device.
    """
    lock, label = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) for _ in range(2))
    name = f"penstock/netdev/{index}"
    try:
        lock.bind("\0" + name)
    except OSError as error:
        lock.close()
        label.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortError(f"port '{port}': netdev '{netdev}' is already in use by {_holder(name)}") from None
    label.bind(f"\0{name}/by/{os.getpid()}/{port}".encode()[:SOCKET_NAME_MAX])
    return [lock, label]


def _holder(name: str) -> str:
    """Who has claimed a device, in words."""
    for line in Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines():
        found = LABEL.search(line)
        if found and found[1] == name:
            process = "" if int(found[2]) == os.getpid() else f" of another switch (process {found[2]})"
            return f"port '{found[3]}'{process}"
    return "another port"


def _has_address(netdev: str) -> bool:
    """Whether the host has an IPv4 address, or an IPv6 one beyond link-local, on the device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            fcntl.ioctl(control, SIOCGIFADDR, struct.pack("40s", netdev.encode()))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        else:
            return True
    listing = Path("/proc/thread-self/net/if_inet6")
    rows = [line.split() for line in listing.read_text().splitlines()] if listing.exists() else []
    return any(row[5] == netdev and row[3] != IPV6_SCOPE_LINK for row in rows)


def silence(netdev: str) -> dict[Path, str]:
    """Switch the host's protocols off on a device without addresses: the settings to put back, with their values."""
    if _has_address(netdev):
        return {}
    settings = {
        Path(f"/proc/sys/net/ipv6/conf/{netdev}/disable_ipv6"): "1",
        Path(f"/proc/sys/net/ipv4/conf/{netdev}/arp_ignore"): ARP_IGNORE_ALL,
    }
    before: dict[Path, str] = {}
    for path, value in settings.items():
        if not path.exists():
            continue  # the kernel has no such protocol
        current = path.read_text().strip()
        if current == value:
            continue
        try:
            path.write_text(value)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            continue  # a container that may not change settings: the host's frames go into the bridge, as documented
        before[path] = current
    return before


def restore(settings: dict[Path, str]) -> None:
    """Put back what ``silence`` changed; a device that is gone needs nothing."""
    for path, value in settings.items():
        if path.exists():
            path.write_text(value)
