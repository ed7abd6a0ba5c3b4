"""vhost-user ports: one end of a virtual machine's network card, whose other end is the guest's virtio driver.

The program that runs the guest (QEMU, dpdk-testpmd; the front end) and we (the back end) talk over a UNIX socket
about memory, rings and events; frames then pass through memory alone. As ``server`` we listen at ``path``, as
``client`` we connect there, again and again. Guests come and go while the port stays. A front end that breaks the
protocol, or a guest that breaks its rings, is cut off and told about in the port's state; nobody else notices. Main
thread only; ``rx`` and ``tx`` move the frames.
"""

from __future__ import annotations

import logging
import socket
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from penstock.machine import records, store64, store_release
from penstock.memory import ArenaError
from penstock.ports.base import Health, Port, PortError, RxSpec, TxSpec
from penstock.ports.vhost_user.dirty_log import DirtyLog
from penstock.ports.vhost_user.features import VhostUserOptions, offered_features, taken_offloads
from penstock.ports.vhost_user.handover import Handover, restore
from penstock.ports.vhost_user.layout import SENDER_RINGS, SENDERS, VHOST, VHOST_SENDERS, VRING
from penstock.ports.vhost_user.memory import GuestMemory
from penstock.ports.vhost_user.messages import ProtocolViolation, Receiver
from penstock.ports.vhost_user.progress import Progress
from penstock.ports.vhost_user.requests import carry_out
from penstock.ports.vhost_user.rx import vhost_release, vhost_rx
from penstock.ports.vhost_user.session import Session
from penstock.ports.vhost_user.tx import vhost_tx
from penstock.ports.vhost_user.used import vhost_arm
from penstock.ports.vhost_user.vring import Vring

LOG = logging.getLogger("penstock.vhost_user")

CONNECT_SECONDS = 0.1  # between attempts to connect
ACCEPT_SECONDS = 1.0  # after one that could not be let in
MESSAGES_MAX = 64  # dealt with at a time; other ports want their turn
PATH_MAX = 107
DEFAULT_MTU = 1500


class VhostUser(Port):
    """A port that is a virtual machine's network card."""

    kind: ClassVar[str] = "vhost-user"
    Options: ClassVar[type] = VhostUserOptions

    def open(self) -> None:
        if len(self.options.path.encode()) > PATH_MAX:
            raise PortError(f"port '{self.name}': path '{self.options.path}' has more than {PATH_MAX} bytes")
        self._blocks: list[int] = []
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._session: Session | None = None
        self._stopped = self._lets_in = False
        self._said = "no guest was connected yet"
        self._statistics = {"connections": 0, "violations": 0}
        self.mtu = self.context.mtu or DEFAULT_MTU
        if self.options.mode == "server":
            self._listener = self._listen()
        try:
            self._allocate_all()
        except (ArenaError, OSError):
            self._free_all()
            self._close_listener()
            raise

    def _allocate_all(self) -> None:
        self._vhost = self._allocate(VHOST.itemsize)
        self._senders = 0
        record: Any = records(VHOST, self._vhost)[0]
        record["workers"] = self.context.workers
        self._vrings = []
        for index in range(2 * self.options.queues):
            address = self._allocate(VRING.itemsize)
            row: Any = records(VRING, address)[0]
            row["vhost"], row["call"] = self._vhost, -1
            self._vrings.append(Vring(index, address, self.context.quiesce))
        self._memory = GuestMemory(self.context.arena, self._vhost, self.context.quiesce)
        self._log = DirtyLog(self.context.arena, self._vhost, self.context.quiesce)
        self._progress = Progress(len(self._vrings), self.context.arena, self._vhost)
        self._handover = Handover(self.name, asdict(self.options), self.context)
        self._publish_senders()
        self.rx = [
            RxSpec(vhost_rx.address, vring.address, release=vhost_release.address, arm=vhost_arm.address)
            for vring in self._vrings
            if vring.sends
        ]
        self.tx = [TxSpec(vhost_tx.address, self._vhost, queue=worker) for worker in range(self.context.workers)]

    def _allocate(self, size: int) -> int:
        address = self.context.arena.allocate(size)
        self._blocks.append(address)
        return address

    def _free_all(self) -> None:
        for block in self._blocks:
            self.context.arena.free(block)

    def start(self) -> None:
        self._let_in(True)
        kept = self._handover.take()
        if kept is not None:
            state, (connection, *fds) = kept
            self._begin(socket.socket(fileno=connection))
            assert self._session is not None
            try:
                restore(self._session, state, fds)
            except (ProtocolViolation, OSError) as error:
                self._end(f"the guest of the engine before could not be taken over: {error}")
            else:
                self._keep()
        elif self._listener is None:
            self._connect()

    def stop(self) -> None:
        self._stopped = True
        if self._session is not None:
            self._end("the port is removed")
        self._handover.forget()
        self._let_in(False)

    def close(self) -> None:
        self._close_listener()
        self._progress.close()
        self._memory.close()
        self.context.arena.free(self._senders)
        self._free_all()

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu

    def check(self) -> tuple[Health, str]:
        if self._session is not None:
            self._look_for_faults(self._session)
        if self._session is None:
            return "down", self._said
        if not any(vring.running for vring in self._vrings):
            return "down", "a guest is connected, and its driver is not ready"
        return "up", ""

    def driver_stats(self) -> dict[str, int]:
        sums = {
            name: sum(int(vring.record[name]) for vring in self._vrings) for name in ("kicked", "calls", "bad_chains")
        }
        rings = sum(vring.running for vring in self._vrings)
        features = {} if self._session is None else {"features": self._session.features}
        return self._statistics | {"rings": rings} | sums | features

    def _look_for_faults(self, session: Session) -> None:
        """Cut a guest off that a worker found to be broken."""
        for vring in session.vrings:
            if vring.call_is_full:
                vring.free_call()  # a worker may wait
                self._violated(f"{vring.name}: no interrupt fits into its eventfd")
                return
            if vring.broken is not None:
                self._violated(f"{vring.name}: {vring.broken.text}")
                return
        if self._memory.lost:
            self._violated("the file behind the guest's memory was cut off")

    # Connections

    def _listen(self) -> socket.socket:
        path = Path(self.options.path)
        try:
            if stat.S_ISSOCK(path.stat().st_mode) and not self._in_use(path):
                path.unlink()
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(path))
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise PortError(f"port '{self.name}': cannot listen at path '{path}': {error.strerror}") from error
        return listener

    def _in_use(self, path: Path) -> bool:
        """Whether somebody listens at a socket; one that a killed program left is none's."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(str(path)) == 0

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            Path(self.options.path).unlink(missing_ok=True)

    def _let_in(self, wanted: bool) -> None:
        """Whether front ends that connect are let in, or have to wait."""
        if self._listener is None or wanted == self._lets_in or (wanted and self._stopped):
            return
        self._lets_in = wanted
        if wanted:
            self.context.loop.watch(self._listener.fileno(), self._accept)
        else:
            self.context.loop.unwatch(self._listener.fileno())

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, most likely; whoever waits is asked again in a while.
            LOG.warning("port '%s': a front end cannot be let in: %s", self.name, error.strerror)
            self._let_in(False)
            self.context.loop.later(ACCEPT_SECONDS, lambda: self._let_in(True))
            return
        if self._session is not None:
            connection.close()  # one guest at a time
            return
        self._begin(connection)

    def _connect(self) -> None:
        if self._stopped:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self.options.path)
        except OSError as error:
            connection.close()
            if not self._statistics["connections"]:
                self._said = f"no guest's program listens at '{self.options.path}': {error.strerror}"
            self.context.loop.later(CONNECT_SECONDS, self._connect)
            return
        self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._receiver = Receiver(connection)
        offered = offered_features(self.options)
        self._session = Session(self, offered, self._vrings, self._memory, self._log, self._progress)
        self._statistics["connections"] += 1
        self.context.loop.watch(connection.fileno(), self._readable)

    def _readable(self) -> None:
        session = self._session
        assert session is not None
        assert self._connection is not None
        self._handover.begin()
        try:
            for _ in range(MESSAGES_MAX):
                message = self._receiver.receive()
                if message is None:
                    break
                LOG.debug("port '%s': %s", self.name, message.name)
                carry_out(session, self._connection, message)
        except ProtocolViolation as error:
            self._violated(str(error))
        except ConnectionError as error:
            self._end(f"the guest is gone: {error}")
        except OSError as error:
            self._violated(f"the front end cannot be served: {error}")
        else:
            if not self._receiver.within:
                self._keep()

    def _keep(self) -> None:
        assert self._session is not None
        assert self._connection is not None
        self._handover.end(self._session, self._connection)

    def _violated(self, reason: str) -> None:
        LOG.warning("port '%s': the guest was cut off: %s", self.name, reason)
        self._statistics["violations"] += 1
        self._end(f"the guest was cut off: {reason}")

    def _end(self, reason: str) -> None:
        """End the session, and be ready for the next guest."""
        assert self._session is not None
        assert self._connection is not None
        self._handover.forget()
        self.context.loop.unwatch(self._connection.fileno())
        self._session.end()
        self._receiver.close()
        self._connection.close()
        self._session = self._connection = None
        self._said = reason
        self.features_changed(0)
        self.mtu = self.context.mtu or DEFAULT_MTU
        if self._listener is None and not self._stopped:
            self.context.loop.later(CONNECT_SECONDS, self._connect)

    # What the session tells

    def rings_changed(self) -> None:
        self._publish_senders()
        for vring in self._vrings:
            if vring.sends:
                self.context.set_fd(vring.index // 2, vring.kick if vring.running else -1)
        self.context.refresh()

    def features_changed(self, features: int) -> None:
        self.offloads = taken_offloads(features)
        self.context.set_offloads(self.offloads)

    def mtu_changed(self, mtu: int) -> None:
        self.mtu = min(mtu, self.context.mtu or mtu)

    def _publish_senders(self) -> None:
        """Have workers send by the rings that are in service."""
        senders = self.context.arena.allocate(SENDERS.itemsize)
        rings = [vring.address for vring in self._vrings if vring.running and not vring.sends]
        store64(senders, len(rings))
        for index, ring in enumerate(rings):
            store64(senders + SENDER_RINGS + index * 8, ring)
        old, self._senders = self._senders, senders
        store_release(self._vhost + VHOST_SENDERS, senders)
        if old:
            self.context.quiesce()
            self.context.arena.free(old)
