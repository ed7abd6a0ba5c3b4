"""Hosts for demonstrations, tests and benchmarks: network namespaces with the kernel's own TCP/IP stack in them.

A host is held by one descriptor of this process and by nothing else, so when the process ends, in whatever way, the
namespace, its devices and its addresses go with it; commands started in a host are killed then too. Sockets
opened inside `entered()` stay in the host, so one Python process can speak for all of them.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

CLONE_NEWNET = 0x40000000
IFA_F_NODAD = 0x02  # an IPv6 address is usable at once: there is nobody to have a duplicate
GROUP_SECONDS = 5.0

_LIBC = ctypes.CDLL(None, use_errno=True)


class HostError(Exception):
    """A host cannot be made or reached; the text says what the kernel answered."""


class Host:
    """One network namespace, its loopback up; close it, or leave its `with` block, to end it and what runs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.descriptor = _make_namespace(name)
        self.processes: list[subprocess.Popen[str]] = []
        with self.entered():
            self.netlink: Any = IPRoute()
        self.up("lo")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()
        self.netlink.close()
        os.close(self.descriptor)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def path(self) -> str:
        """A path that names the namespace for nsenter and the like, as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the calling thread's new sockets belong to this host."""
        with open("/proc/thread-self/ns/net") as home:
            _setns(self.descriptor, self.name)
            try:
                yield
            finally:
                _setns(home.fileno(), "the namespace that this process came from")

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` in the host."""
        return ["nsenter", f"--net={self.path}", "--", *arguments]

    def run(self, *arguments: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the host to its end. Raises CalledProcessError when it fails and `check` is set."""
        return subprocess.run(
            self.command(*arguments),
            check=check,
            timeout=timeout,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in the host; it is killed when the host closes or this process ends."""
        command = ["setpriv", "--pdeathsig", "KILL", *self.command(*arguments)]
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True} | options
        process: subprocess.Popen[str] = subprocess.Popen(command, **settings)
        self.processes.append(process)
        return process

    def links(self) -> dict[str, Any]:
        """The net devices in the host, by name."""
        return {link.get("ifname"): link for link in self.netlink.get_links()}

    def index(self, link: str) -> int:
        found = self.netlink.link_lookup(ifname=link)
        if not found:
            raise HostError(f"host {self.name} has no device '{link}', only {', '.join(self.links())}")
        return int(found[0])

    def up(self, link: str) -> None:
        self.netlink.link("set", index=self.index(link), state="up")

    def down(self, link: str) -> None:
        self.netlink.link("set", index=self.index(link), state="down")

    def change(self, link: str, **attributes: Any) -> None:
        """Set attributes of a device: mtu, address (the MAC), ifname."""
        self.netlink.link("set", index=self.index(link), **attributes)

    def delete(self, link: str) -> None:
        self.netlink.link("del", index=self.index(link))

    def mac(self, link: str) -> str:
        return str(self.links()[link].get("address"))

    def assign(self, link: str, *addresses: str) -> None:
        """Bring a device up with the given addresses, each with its prefix length: "10.0.0.1/24", "fd00::1/64"."""
        self.up(link)
        for address in addresses:
            host, _, length = address.partition("/")
            flags = {"flags": IFA_F_NODAD} if ":" in host else {}
            self.netlink.addr("add", index=self.index(link), address=host, prefixlen=int(length), **flags)
            if ":" in host:
                self._await_group(link, solicited_node(host))

    def _await_group(self, link: str, group: str) -> None:
        """Wait until the kernel has joined an IPv6 group on a device, which it does a little after it has an address:
        nobody who asks for the address before gets an answer.
        """
        wanted = link, ipaddress.IPv6Address(group).packed.hex()
        deadline = time.monotonic() + GROUP_SECONDS
        while True:
            with self.entered():
                joined = Path("/proc/thread-self/net/igmp6").read_text()
            if any(tuple(line.split()[1:3]) == wanted for line in joined.splitlines()):
                return
            if time.monotonic() > deadline:
                raise HostError(f"host {self.name}: device '{link}' did not join {group} in {GROUP_SECONDS:g} s")
            time.sleep(0.005)

    def take(self, link: str, source: Host, name: str | None = None) -> None:
        """Move a device from another host into this one, renamed if a name is given."""
        attributes = {} if name is None else {"ifname": name}
        source.netlink.link("set", index=source.index(link), net_ns_fd=self.descriptor, **attributes)


def solicited_node(address: str) -> str:
    """The group in which an IPv6 address is asked for (RFC 4291 section 2.7.1)."""
    return str(ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + ipaddress.IPv6Address(address).packed[-3:]))


def cable(one: Host, one_name: str, other: Host, other_name: str) -> None:
    """Lay a veth pair between two hosts, both ends up."""
    try:
        one.netlink.link(
            "add", ifname=one_name, kind="veth", peer={"ifname": other_name, "net_ns_fd": other.descriptor}
        )
    except NetlinkError as error:
        raise HostError(f"no veth pair from {one.name} ({one_name}) to {other.name} ({other_name}): {error}") from error
    one.up(one_name)
    other.up(other_name)


def _make_namespace(name: str) -> int:
    """A descriptor of a new network namespace, made by a thread that ends at once: the descriptor alone holds it."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        if _LIBC.unshare(CLONE_NEWNET) != 0:
            failed.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
        else:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise HostError(f"no network namespace for host {name}: {failed[0].strerror}") from failed[0]
    return made[0]


def _setns(descriptor: int, name: str) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise HostError(f"cannot enter {name}: {os.strerror(ctypes.get_errno())}")


def close_all(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.close()
