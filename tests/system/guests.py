"""Virtio guests for tests of faults: a station that sends frames all the time, and guests that send each one back.

The station is a port of this process (`Probe`); what it sends has numbers and times, so that losses are exact to the
frame and outages to a millisecond, in both directions at once. The guests are processes that can be killed:
`PythonGuest`, and `bench.dpdk.Testpmd` by `dpdk_guest`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import dpdk
from penstock.demo.hosts import Host
from penstock.ports.base import PortError
from penstock.traffic.driver import Driver
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.generator import Generator
from penstock.traffic.session import Session
from penstock.traffic.sink import Counts, Sink
from penstock.traffic.stream import Stream

GUEST_MAC = "02:00:00:00:02:00"
MEGABYTES = 64
RATE = 1000
RING = 1024  # frames: who is not scheduled for a second on a busy machine loses none
LOOK_SECONDS = 0.001
# Guests are forked from a process that has imported everything: a new one is there in a few milliseconds.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([__name__])


class Probe:
    """A station of a steady rate, whose frames a guest sends back; use as a context manager."""

    def __init__(self, kind: str, options: dict[str, Any], rate: int = RATE, size: str = "100,1500") -> None:
        self.session = Session(MEGABYTES)
        try:
            self.endpoint = self.session.open("probe", kind, options)
            self._generator = Generator.of_stream(
                self.endpoint, Stream(size=size, rate=str(rate), dst_mac=GUEST_MAC), self.session.hz
            )
            self.sink = Sink(self.endpoint, self.session.hz)
        except BaseException:
            self.session.__exit__()
            raise
        self._driver: Driver | None = None

    def __enter__(self) -> Probe:
        self._driver = Driver(self.session.arena, [self._generator, self.sink], self.session.hz)
        self._driver.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self._driver is not None:
                self._driver.stop()
        finally:
            self.session.__exit__()

    @property
    def sent(self) -> int:
        return self._generator.sent

    @property
    def back(self) -> int:
        """How many frames came back."""
        return int(self.sink.row["stamped"])

    def counts(self) -> Counts:
        """What came back, all of one moment."""
        while True:
            seen, found = int(self.sink.row["received"]), self.sink.counts()
            if found.received == seen == int(self.sink.row["received"]) and found.stamped == seen - found.foreign:
                return found

    def await_back(self, count: int, seconds: float = 10.0) -> float:
        """Wait until so many more came back; returns when the first of them did (monotonic)."""
        before, first, deadline = self.back, 0.0, time.monotonic() + seconds
        while (now := self.back) < before + count:
            first = first or (time.monotonic() if now > before else 0.0)
            assert time.monotonic() < deadline, f"{now - before} of {count} frames came back within {seconds:g} s"
            time.sleep(LOOK_SECONDS)
        return first or time.monotonic()

    def outage(self, over: Callable[[], object], seconds: float = 10.0, count: int = 100) -> float:
        """The longest time that nothing came back, from now until `over()` holds and `count` more frames came back."""
        last = time.monotonic()
        deadline, longest, seen, target = last + seconds, 0.0, self.back, 0
        while not target or seen < target:
            time.sleep(LOOK_SECONDS)
            now, back = time.monotonic(), self.back
            if back > seen:
                longest, last, seen = max(longest, now - last), now, back
            if not target and over():
                target = back + count
            assert now < deadline, f"no end of it within {seconds:g} s, nothing came back for {now - last:.2f} s"
        return longest

    @contextmanager
    def lossless(self, count: int = 500) -> Iterator[None]:
        """Fail unless all frames of this `with` block and `count` after it come back once and in order."""
        before = self.counts()
        yield
        self.await_back(count)
        after = self.counts()
        for fault in ("missing", "duplicates", "reordered", "late"):
            assert getattr(after, fault) == getattr(before, fault), f"{fault}: {before} before, {after} after"


def _reflect(options: dict[str, Any], told: Connection) -> None:
    """Be a guest that sends frames back, and connects again whenever its back end is gone."""
    with Session(MEGABYTES) as session:
        endpoint = session.open("guest", "virtio-user", options)
        sink = Sink(endpoint, session.hz)
        sink.reflect()
        while True:
            told.send(time.monotonic())
            with Driver(session.arena, [sink], session.hz):
                while endpoint.port.check()[0] == "up":
                    time.sleep(LOOK_SECONDS)
            endpoint.check()
            _reconnect(endpoint)


def _reconnect(endpoint: Endpoint) -> None:
    port: Any = endpoint.port
    while True:
        try:
            return port.reconnect(keep_rings=True)
        except PortError:
            time.sleep(0.02)


class PythonGuest:
    """A guest process that reflects; made anew after each `kill`, or on its own by `start`."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._options = {"path": str(path), "poll": False, "ring": RING} | options
        self.start()

    def start(self) -> None:
        self._told, theirs = _FORKED.Pipe(duplex=False)
        self.process = _FORKED.Process(target=_reflect, args=(self._options, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def connected(self, seconds: float = 10.0) -> float:
        """Wait until it is connected (again); returns since when it is (monotonic)."""
        assert self._told.poll(seconds), f"the guest did not connect within {seconds:g} s"
        found: float = self._told.recv()
        return found

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.join()
        self._told.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def __enter__(self) -> PythonGuest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


def dpdk_guest(host: Host, directory: Path, path: Path, *arguments: str) -> dpdk.Testpmd:
    """A dpdk-testpmd that sends back by one port whatever comes, with the arguments of its virtio device."""
    files = directory / "dpdk"
    files.mkdir(exist_ok=True)
    device = ",".join([f"net_virtio_user0,path={path},mac={GUEST_MAC},queue_size={RING}", *arguments])
    cpu = max(os.sched_getaffinity(0))
    guest = dpdk.Testpmd(host, cpu, [device], "--forward-mode=macswap", "--no-mlockall", plain_memory=files)
    guest.ask("start")
    return guest
