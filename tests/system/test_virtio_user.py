"""The guest in Python at a back end that others wrote: dpdk-testpmd's vhost ports, which join two of our guests."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, FRAG, GSO_TCPV4, OFFLOAD_CSUM, OFFLOAD_TSO4
from penstock.machine import records
from penstock.memory import ARENA_BASE, Arena
from penstock.ports.base import PortContext, PortError
from penstock.ports.vhost_user.virtio import Feature, mask
from penstock.traffic.virtio_user.features import VirtioUserOptions
from penstock.traffic.virtio_user.port import VirtioUser
from tests.kernel.port_support import Queues
from tests.system.lab import eventually

pytestmark = pytest.mark.needs("dpdk-testpmd")

PLAIN = bytes.fromhex("020000000002 020000000001 88b5")
IPV4 = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0x4000, 64, 6, 0, 0x0A000001, 0x0A000002)
TCP = bytes.fromhex("020000000002 020000000001 0800") + IPV4 + struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 16, 99, 0, 0)
RARP = 0x8035


class Forwarder:
    """dpdk-testpmd with two vhost ports, A and B, that forwards from each to the other."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.arguments = arguments
        self.paths = [directory / name for name in ("a", "b")]
        self.log = directory / "log"

    def start(self) -> None:
        options = "".join(f",{argument}" for argument in self.arguments)
        vdevs = [f"--vdev=net_vhost{index},iface={path}{options}" for index, path in enumerate(self.paths)]
        cpu = min(os.sched_getaffinity(0))
        machine = ["--no-huge", "-m", "128", "--no-pci", "--no-telemetry"]
        queues = ["--rxq=2", "--txq=2"] if "queues=2" in self.arguments else []
        forward = ["--forward-mode=io", "--auto-start", "--total-num-mbufs=8192", "--no-mlockall", *queues]
        command = ["dpdk-testpmd", *machine, "--lcores", f"0@{cpu},1@{cpu}", *vdevs, "--", *forward]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RUNTIME_DIRECTORY": str(self.directory)},
            )
        if "client=1" not in self.arguments:
            eventually("testpmd listens", lambda: all(path.is_socket() for path in self.paths), 20)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


class Guest:
    """A guest and its queues as a worker has them."""

    def __init__(self, arena: Arena, path: Path, **options: Any) -> None:
        self.port = VirtioUser(path.name, VirtioUserOptions(path=str(path), **options), PortContext(arena))
        self.port.open()
        self.queues = Queues(arena, self.port)

    def take(self, seconds: float = 5.0) -> list[tuple[Any, bytes, int]]:
        """(PACKET, frame, queue) of what comes within a time; announcements of addresses are left out."""
        deadline = time.monotonic() + seconds
        found: list[tuple[Any, bytes, int]] = []
        while not found and time.monotonic() < deadline:
            for queue in range(len(self.port.rx)):
                for index in range(self.queues.receive(queue)):
                    p = self.queues.packets[index]
                    data = ctypes.string_at(int(p["head"]), int(p["head_len"]))
                    for piece in records(FRAG, int(p["frags"]), int(p["frag_count"])) if p["frags"] else []:
                        data += ctypes.string_at(int(piece["address"]), int(piece["length"]))
                    if int.from_bytes(data[12:14]) != RARP:
                        found.append((p.copy(), data, queue))
                self.queues.release(queue)
            time.sleep(0.0005)
        return found


@contextmanager
def guests(testpmd: Forwarder, **options: Any) -> Iterator[tuple[Guest, Guest]]:
    """A guest at each port of testpmd, between which frames pass."""
    arena = Arena.create(128 << 20, huge_pages=False)
    found: list[Guest] = []
    try:
        for path in testpmd.paths:
            found.append(Guest(arena, path, **options))
        meet(*found)
        yield found[0], found[1]
    finally:
        for guest in found:
            guest.port.close()
        arena.close()


def meet(one: Guest, other: Guest) -> None:
    """Send frames until one passes: testpmd takes a moment to notice a guest."""

    def passes() -> bool:
        one.queues.send(PLAIN + bytes(46))
        return bool(other.take(0.02))

    eventually("a first frame passes", passes)
    while other.take(0.02):
        pass


@pytest.fixture(scope="module")
def testpmd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarder]:
    made = Forwarder(tmp_path_factory.mktemp("vhost"), "queues=2", "tso=1", "legacy-ol-flags=1")
    made.start()
    yield made
    made.stop()


SETTINGS: list[dict[str, Any]] = [
    {},
    {"packed": True},
    {"in_order": True},
    {"packed": True, "in_order": True},
    {"mergeable": False},
    {"version_1": False},
    {"version_1": False, "mergeable": False, "in_place": 64, "regions": 4},
    {"indirect": False, "header_apart": True, "in_place": 64, "event_index": False},
    {"packed": True, "indirect": False, "event_index": False, "ring": 200},
    {"offloads": (), "queues": 2, "guest_address": 0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings) or "default")
def test_frames_pass_both_ways(testpmd: Forwarder, settings: dict[str, Any]) -> None:
    with guests(testpmd, **settings) as (one, other):
        for source, target in ((one, other), (other, one)):
            for size in (60, 64, 300, 1514):
                frame = PLAIN + os.urandom(size - len(PLAIN))
                source.queues.send(frame, split=256 if size > 256 else 0)
                assert [data for _, data, _ in target.take()] == [frame]
        for guest in (one, other):
            assert guest.port.check() == ("up", "")
            assert guest.queues.drops() == {}


@pytest.mark.parametrize("settings", SETTINGS[:-1], ids=lambda settings: ",".join(settings) or "default")
def test_large_segments_pass_whole(testpmd: Forwarder, settings: dict[str, Any]) -> None:
    with guests(testpmd, **settings) as (one, other):
        assert one.port.offloads & (OFFLOAD_CSUM | OFFLOAD_TSO4) == OFFLOAD_CSUM | OFFLOAD_TSO4
        work = {"flags": FLAG_CSUM_PARTIAL, "csum_start": 34, "csum_offset": 16, "gso_type": GSO_TCPV4}
        for size in (3000, 65000):
            frame = TCP + os.urandom(size)
            one.queues.send(frame, split=len(TCP), gso_size=1400, **work)
            ((packet, data, _),) = other.take()
            assert data[: len(TCP) - 4] == frame[: len(TCP) - 4]
            assert data[len(TCP) :] == frame[len(TCP) :]
            assert {name: int(packet[name]) for name in work} == work
            assert packet["gso_size"] == 1400


def test_each_queue_is_a_way_of_its_own(testpmd: Forwarder) -> None:
    with guests(testpmd, queues=2) as (one, other):
        for queue in (0, 1):
            frame = PLAIN + bytes([queue]) * 100
            one.queues.send(frame, queue=queue)
            assert [(data, came) for _, data, came in other.take()] == [(frame, queue)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("event_index", [False, True])
def test_a_sleeping_guest_is_woken(testpmd: Forwarder, packed: bool, event_index: bool) -> None:
    with guests(testpmd, poll=False, packed=packed, event_index=event_index) as (one, other):
        poller = select.poll()
        poller.register(other.port.rx[0].fd, select.POLLIN)
        for number in range(3):
            assert not other.take(0.001)
            assert not poller.poll(0)
            frame = PLAIN + bytes([number]) * 100
            one.queues.send(frame)
            assert poller.poll(5000)
            assert [data for _, data, _ in other.take()] == [frame]


@pytest.mark.parametrize("packed", [False, True])
def test_rings_stop_and_go_on(testpmd: Forwarder, packed: bool) -> None:
    with guests(testpmd, packed=packed) as (one, other):
        for port in (one.port, other.port):
            bases = port.suspend()
            place = 0x7FFF if packed else 0xFFFF
            assert bases[0] & place == int(port.receiving[0].row["next_used"])
            assert bases[1] & place == int(port.sending[0].row["next_avail"])
            port.resume(bases)
        meet(one, other)
        for keep_rings in (False, True):
            for port in (one.port, other.port):
                port.reconnect(keep_rings)
                assert port.check() == ("up", "")
            meet(one, other)


@pytest.mark.parametrize("packed", [False, True])
def test_the_dirty_log_names_what_was_written(testpmd: Forwarder, packed: bool) -> None:
    with guests(testpmd, packed=packed) as (one, other):
        log = other.port.start_log()
        assert log.pages() == []
        one.queues.send(PLAIN + bytes(1000))
        ((packet, _, _),) = other.take()
        delta = other.port.options.guest_address - ARENA_BASE
        written = [int(packet["head"]), int(packet["head"]) + 999]
        if not packed:  # of a packed ring this back end logs another area than the one it writes
            written.append(other.port.receiving[0].addresses[1])
        for address in written:
            assert (address + delta) // 4096 in log.pages()
        other.port.stop_log()
        before = log.pages()
        one.queues.send(PLAIN + bytes(1000))
        assert other.take()
        assert log.pages() == before


def test_what_only_some_back_ends_do(testpmd: Forwarder) -> None:
    with guests(testpmd) as (one, _other):
        one.port.set_mtu(1400)
        one.port.announce()
        assert not one.port.features & mask(Feature.NET_HOST_USO)
        assert one.port.driver_stats()["kicks"] >= 0


def test_a_guest_that_listens_outlives_its_back_end(tmp_path: Path) -> None:
    made = Forwarder(tmp_path, "client=1")
    made.start()
    try:
        with guests(made, mode="server", seconds=10.0) as (one, other):
            for number in (signal.SIGKILL, signal.SIGTERM):
                made.stop(number)
                state, reason = one.port.check()
                assert (state, reason.partition(" at ")[0]) == ("down", "the back end")
                made.start()
                for port in (one.port, other.port):
                    port.reconnect(keep_rings=True)
                meet(one, other)
        assert not any(path.exists() for path in made.paths)
    finally:
        made.stop()


def test_a_back_end_that_is_not_there(tmp_path: Path) -> None:
    arena = Arena.create(16 << 20, huge_pages=False)
    try:
        with pytest.raises(PortError, match=r"port 'a': back end at .*/a: \[Errno 2\]"):
            Guest(arena, tmp_path / "a")
        with pytest.raises(PortError, match=r"port 'a': no back end connected to .*/a within 0.1 s"):
            Guest(arena, tmp_path / "a", mode="server", seconds=0.1)
        assert not (tmp_path / "a").exists()
    finally:
        arena.close()
