"""What the tests of ports share: a namespace of their own, hosts beside it, and a loop that moves bursts between ports.

No engine: RXQ and TXQ are built from a port's specs here, and the compiled functions are called by address.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from penstock.datapath.drops import REASONS
from penstock.datapath.layout import BURST, COUNTERS, PACKET
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports.base import Port, PortContext
from penstock.traffic import endpoint

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10
BURST_CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
RELEASE_CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def run(*command: str, check: bool = True) -> str:
    """The output of a command run in this thread's network namespace."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def own_namespace() -> Iterator[None]:
    """Put this thread, and what it starts, into a fresh network namespace for a while."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert LIBC.setns(before, CLONE_NEWNET) == 0
        os.close(before)


class Host:
    """A network namespace with the kernel's own stack, held by a sleeping process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        ours = Path("/proc/thread-self/ns/net").readlink()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{self.process.pid}/ns/net").readlink() == ours or self.command() != "sleep":
            assert time.monotonic() < deadline
            time.sleep(0.002)
        self.run("ip", "link", "set", "lo", "up")
        # No router solicitations or multicast reports among the frames that tests count; ``take`` allows IPv6 again.
        self.run("sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")

    def command(self) -> str:
        return Path(f"/proc/{self.process.pid}/comm").read_text().strip()

    def take(self, device: str, address: str, name: str = "eth0") -> None:
        """Move a device of the present namespace in here and give it an address."""
        run("ip", "link", "set", device, "netns", str(self.process.pid), "name", name)
        self.run("ip", "address", "add", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    def take_ipv6(self, address: str, name: str = "eth0") -> None:
        """Give a device an IPv6 address as well."""
        self.run("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=0")
        self.run("ip", "address", "add", address, "dev", name, "nodad")

    def run(self, *command: str, check: bool = True) -> str:
        return run("nsenter", "-t", str(self.process.pid), "-n", *command, check=check)

    def start(self, *command: str) -> subprocess.Popen[str]:
        whole = ["nsenter", "-t", str(self.process.pid), "-n", *command]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def inside(self, make: Callable[[], Any]) -> Any:
        """The result of a function called in this namespace (a socket stays in it)."""
        made: list[Any] = []

        def enter() -> None:
            with Path(f"/proc/{self.process.pid}/ns/net").open() as namespace:
                assert LIBC.setns(namespace.fileno(), CLONE_NEWNET) == 0
            made.append(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]

    def raw_socket(self, device: str = "eth0") -> socket.socket:
        """A packet socket on a device of this host, to send and see frames as they are."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            made.bind((device, 0))
            made.settimeout(2)
            return made

        raw: socket.socket = self.inside(make)
        return raw

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Queues(endpoint.Queues):
    """The queues of one open port, which share their counters, and a burst of packets to call their functions with."""

    def __init__(self, arena: Arena, port: Port) -> None:
        super().__init__(arena, port)
        self.counters_at = arena.allocate(COUNTERS.itemsize)
        self.counters = records(COUNTERS, self.counters_at)[0]
        self.packets_at = arena.allocate(PACKET.itemsize * BURST)
        self.packets = records(PACKET, self.packets_at, BURST)
        self.list_at = arena.allocate(8 * BURST)
        for queue in [*self.rx, *self.tx]:
            queue.row["counters"] = self.counters_at
        self.rxqs = [(queue.address, queue.row) for queue in self.rx]
        self.txqs = [(queue.address, queue.row) for queue in self.tx]

    def receive(self, queue: int = 0, limit: int = BURST) -> int:
        """One burst into ``packets``; to be released."""
        address, rxq = self.rxqs[queue]
        return int(BURST_CALL(int(rxq["rx"]))(address, self.packets_at, limit))

    def release(self, queue: int = 0) -> None:
        address, rxq = self.rxqs[queue]
        if rxq["release"]:
            RELEASE_CALL(int(rxq["release"]))(address)

    def pending(self, queue: int = 0) -> int:
        address, rxq = self.rxqs[queue]
        return int(RELEASE_CALL(int(rxq["pending"]))(address))

    def transmit(self, packets: list[int], queue: int = 0) -> None:
        """Send the packets whose PACKET records are at these addresses."""
        records(np.dtype("i8"), self.list_at, BURST)[: len(packets)] = packets
        address, txq = self.txqs[queue]
        BURST_CALL(int(txq["tx"]))(address, self.list_at, len(packets))

    def frame(self, index: int) -> bytes:
        """The bytes of a received packet."""
        p = self.packets[index]
        head = ctypes.string_at(int(p["head"]), int(p["head_len"]))
        return head + ctypes.string_at(int(p["tail"]), int(p["tail_len"])) if p["tail_len"] else head

    def packet_address(self, index: int) -> int:
        return self.packets_at + index * PACKET.itemsize

    def drops(self) -> dict[str, int]:
        found = {reason.name: int(self.counters["drops"][i]) for i, reason in enumerate(REASONS)}
        return {name: count for name, count in found.items() if count}

    def wait(self, seconds: float = 2.0) -> list[tuple[np.void, bytes]]:
        """Frames received within a time, as (copy of PACKET, bytes): at least one, or an empty list."""
        found: list[tuple[np.void, bytes]] = []
        deadline = time.monotonic() + seconds
        while not found and time.monotonic() < deadline:
            for queue in range(len(self.rxqs)):
                count = self.receive(queue)
                found += [(self.packets[i].copy(), self.frame(i)) for i in range(count)]
                self.release(queue)
            time.sleep(0.001)
        return found

    def send(self, frame: bytes, split: int = 0, queue: int = 0, **fields: int) -> None:
        """Transmit one frame made here, its bytes from ``split`` on as the tail (0: no tail)."""
        block = self.arena.allocate(256 + len(frame))
        ctypes.memmove(block + 128, frame, len(frame))
        p = self.packets[0]
        for name in p.dtype.names or ():
            p[name] = 0
        p["head"], p["headroom"] = block + 128, 128
        p["head_len"] = split or len(frame)
        p["tail"], p["tail_len"] = (block + 128 + split, len(frame) - split) if split else (0, 0)
        for name, value in fields.items():
            p[name] = value
        self.transmit([self.packets_at], queue)
        self.arena.free(block)


class Shuttle:
    """A thread that carries what each port receives to another one, both ways, until it is stopped."""

    def __init__(self, *ways: tuple[Queues, Queues], edit: Callable[[Queues, int], None] | None = None) -> None:
        self.ways = ways
        self.edit = edit
        self.largest = 0
        self.gso: set[int] = set()
        self.bursts: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Shuttle:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        poller = select.epoll()
        for source, _target in self.ways:
            for _address, rxq in source.rxqs:
                if rxq["fd"] >= 0:
                    poller.register(int(rxq["fd"]), select.EPOLLIN)
        while not self._stop.is_set():
            if not sum(self._carry(source, target) for source, target in self.ways):
                poller.poll(0.01)
        poller.close()

    def _carry(self, source: Queues, target: Queues) -> int:
        total = 0
        for queue in range(len(source.rxqs)):
            count = source.receive(queue)
            if count:
                packets = source.packets[:count]
                self.largest = max(self.largest, int((packets["head_len"] + packets["tail_len"]).max()))
                self.gso |= {int(kind) for kind in packets["gso_type"]}
                self.bursts.append(count)
                for index in range(count) if self.edit else ():
                    assert self.edit
                    self.edit(source, index)
                target.transmit([source.packet_address(i) for i in range(count)])
            source.release(queue)
            total += count
        return total


def arrives(raw: socket.socket, frame: bytes, seconds: float = 2.0) -> bool:
    """Whether a host's packet socket sees this frame, among others; with the VLAN tag that the kernel takes out."""
    raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    deadline = time.monotonic() + seconds
    while select.select([raw], [], [], max(0, deadline - time.monotonic()))[0]:
        data, ancillary, _flags, _address = raw.recvmsg(70000, 256)
        for level, kind, content in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, *_rest, tci, tpid = struct.unpack("=IIIHHHH", content)
                if status & TP_STATUS_VLAN_VALID:
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
        if data == frame:
            return True
    return False


def bulk_transfer(sender: Host, receiver: Host, address: str, size: int) -> None:
    """Send random bytes over TCP between two hosts, and compare what arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener: socket.socket = receiver.inside(lambda: socket.create_server((address, 5000), family=family))
    client: socket.socket = sender.inside(lambda: socket.socket(family))
    listener.settimeout(10)
    client.settimeout(10)
    data = os.urandom(size)

    def send() -> None:
        with client:
            client.connect((address, 5000))
            client.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    with listener, listener.accept()[0] as connection:
        connection.settimeout(10)
        got = bytearray()
        while part := connection.recv(1 << 20):
            got += part
    thread.join()
    assert got == data


def segmented_datagrams(sender: Host, receiver: Host, address: str, count: int, size: int) -> None:
    """Send datagrams that the kernel leaves to be cut later (UDP_SEGMENT), and compare what arrives."""
    receiving: socket.socket = receiver.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sending: socket.socket = sender.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiving, sending:
        receiving.settimeout(5)
        receiving.bind((address, 5001))
        sending.setsockopt(17, 103, size)  # SOL_UDP, UDP_SEGMENT
        datagrams = [bytes([index]) * size for index in range(count)]
        sending.sendto(b"".join(datagrams), (address, 5001))
        assert [receiving.recv(65535) for _ in datagrams] == datagrams


def open_port(arena: Arena, kind: type[Port], name: str, workers: int = 1, **options: Any) -> Port:
    """A port of a kind, opened; ``mtu``, ``adopt``, ``keep`` and ``forget`` among the options go to its context."""
    lent = {key: options.pop(key) for key in ("mtu", "adopt", "keep", "forget") if key in options}
    port = kind(name, kind.Options(**options), PortContext(arena, workers=workers, **lent))
    port.open()
    return port
