"""The supervisor: starts the engine and the control process, restarts what dies, stops both when told to.

Of the engine there is a spare, a process that has loaded everything and waits at the descriptor store for the engine to
die: guests and hosts then wait for a tenth of a second instead of one.

One thread around a selector; it holds no state of the switch but duplicates of TAP descriptors (`switch.fd_keeper`),
and imports nothing that could take long or fail late: it must outlive whatever it watches.

The control process tells by a line of JSON on an inherited pipe ($PENSTOCK_NOTIFY) each time the engine is up and the
configuration applied: {"bridges": N, "ports": N, "failed": [ports]}. Why a port failed the control process itself says.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.engine.fdstore import ENVIRONMENT as FDSTORE_VARIABLE
from penstock.engine.log_file import SIGNAL, ignore_signal, reopen_log
from penstock.switch.ending import catch_signals, is_end
from penstock.switch.fd_keeper import FdKeeper
from penstock.switch.rundir import ACCEPTED, LOCK, make_rundir, take_lock
from penstock.switch.settings import EngineSettings
from penstock.switch.status import ChildStatus, Role, SupervisorStatus, exit_in_words

NOTIFY_VARIABLE = "PENSTOCK_NOTIFY"
EXIT_CONFIG = 78  # the control process's exit code for a bad configuration (EX_CONFIG of sysexits.h); it has said why

_GIVE_UP_DEATHS = 5
_GIVE_UP_SECONDS = 10.0
_BACK_OFF = (0.0, 0.1, 0.2, 0.4, 0.8)
_STOP_SECONDS = {"control": 3.0, "engine": 5.0}
_PR_SET_PDEATHSIG = 1


_NAMES: dict[Role, str] = {"engine": "engine", "control": "control process"}


class Child:
    """One supervised process and how often it died lately."""

    def __init__(self, role: Role, command: Sequence[str], status: ChildStatus) -> None:
        self.role = role
        self.name = _NAMES[role]
        self.command = list(command)
        self.status = status
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.deaths: deque[float] = deque(maxlen=_GIVE_UP_DEATHS)
        self.restart_at: float | None = None  # monotonic; None when it runs

    def start(self, variable: str, descriptor: int) -> None:
        """Start the process; it inherits `descriptor` and finds its number in the environment."""
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, variable: str(descriptor)},
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C at the terminal is for the supervisor, which stops them in order
            preexec_fn=_die_with_parent(os.getpid()),
        )
        self.pidfd = os.pidfd_open(self.process.pid)
        self._started()

    def succeed(self, spare: Child) -> None:
        """Have a spare's process as one's own."""
        self.process, self.pidfd = spare.process, spare.pidfd
        spare.process, spare.pidfd = None, -1
        self._started()

    def _started(self) -> None:
        assert self.process is not None
        self.restart_at = None
        self.status.pid = self.process.pid
        self.status.started = time.time()

    def reap(self) -> int:
        """Collect the ended process; returns its exit code (negative: the signal that killed it)."""
        assert self.process is not None
        code = self.process.wait()
        os.close(self.pidfd)
        self.process, self.pidfd = None, -1
        self.status.pid = 0
        self.status.last_exit = exit_in_words(code)
        self.status.last_exit_at = time.time()
        return code

    def died_too_often(self) -> bool:
        """Note a death; true when there were too many in too short a time."""
        now = time.monotonic()
        self.deaths.append(now)
        return len(self.deaths) == _GIVE_UP_DEATHS and now - self.deaths[0] <= _GIVE_UP_SECONDS

    def schedule_restart(self) -> None:
        now = time.monotonic()
        recent = sum(1 for death in self.deaths if now - death <= _GIVE_UP_SECONDS)
        self.restart_at = now + _BACK_OFF[recent - 1]


class Supervisor:
    """Runs one switch; `engine` and `control` are the commands that start its two processes."""

    def __init__(
        self, rundir: Path, config: Path, engine: Sequence[str], control: Sequence[str], *, has_spare: bool = True
    ) -> None:
        self.rundir = rundir
        self.has_spare = has_spare
        self.status = SupervisorStatus(pid=os.getpid(), started=time.time(), config=str(config))
        self.engine = Child("engine", engine, self.status.engine)
        self.spare = Child("engine", engine, ChildStatus())
        self.control = Child("control", control, self.status.control)
        self.keeper = FdKeeper()
        self.selector = selectors.DefaultSelector()
        self.began = time.monotonic()
        self.announced = False
        self.stopping = False
        self.exit_code = 0
        self.stop_at: float | None = None  # monotonic: when it ends by itself
        self.on_start: Callable[[], None] = lambda: None  # called once, when the run directory is ours
        self.on_ready: Callable[[], None] = lambda: None  # called once, when the switch forwards
        self.on_reopen: Callable[[], None] = lambda: None  # called when the log file was opened anew
        self._notify_read, self._notify_write = os.pipe()
        self._notified = b""

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code. Raises RundirError when the directory cannot be used."""
        make_rundir(self.rundir)
        lock = take_lock(self.rundir / LOCK, "penstock")
        (self.rundir / ACCEPTED).unlink(missing_ok=True)
        signals = catch_signals()
        signal.signal(SIGNAL, lambda _number, _frame: self._reopen_log())
        self.watch(signals.fileno(), lambda: self._on_signal(signals))
        self.watch(self._notify_read, self._on_notify)
        try:
            self.on_start()
            self._start(self.engine)
            self._start(self.control)
            while not self.stopping:
                self._turn()
        finally:
            self._stop_children()
            self.status.write(self.rundir)
            self.keeper.close()
            os.close(lock)
        return self.exit_code

    def _turn(self) -> None:
        moments = [child.restart_at for child in self._children()] + [self.stop_at]
        waits = [moment - time.monotonic() for moment in moments if moment is not None]
        timeout = max(0.0, min(waits)) if waits else None
        self._dispatch(timeout)
        if self.stop_at is not None and self.stop_at <= time.monotonic():
            self.stopping = True
        for child in self._children():
            if not self.stopping and child.restart_at is not None and child.restart_at <= time.monotonic():
                child.status.restarts += 1
                self._start(child)

    def _dispatch(self, timeout: float | None) -> None:
        """Wait for events and handle them; a handler may end the watch on what another event of the batch is about."""
        for key, _events in self.selector.select(timeout):
            if key.fd in self.selector.get_map():
                key.data()

    def _children(self) -> tuple[Child, Child]:
        return (self.engine, self.control)

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever a descriptor is readable."""
        self.selector.register(descriptor, selectors.EVENT_READ, handler)

    def unwatch(self, descriptor: int) -> None:
        self.selector.unregister(descriptor)

    def _start(self, child: Child) -> None:
        if child is self.engine:
            if self.spare.process is not None:
                self._unwatch_spare()
                child.succeed(self.spare)
                self.keeper.promote()
            else:
                with self.keeper.connect() as theirs:
                    child.start(FDSTORE_VARIABLE, theirs.fileno())
            self.watch(self.keeper.fileno(), self._on_fdstore)
        else:
            child.start(NOTIFY_VARIABLE, self._notify_write)
        self.watch(child.pidfd, lambda: self._on_death(child))
        self.status.write(self.rundir)

    def _start_spare(self) -> None:
        with self.keeper.prepare() as theirs:
            self.spare.start(FDSTORE_VARIABLE, theirs.fileno())
        self.watch(self.spare.pidfd, self._on_spare_death)
        self.watch(self.keeper.next_fileno(), self._on_spare_waits)

    def _on_spare_waits(self) -> None:
        self.selector.unregister(self.keeper.next_fileno())
        self.status.spare = self.spare.status.pid
        self.status.write(self.rundir)

    def _unwatch_spare(self) -> None:
        self.selector.unregister(self.spare.pidfd)
        if self.keeper.next_fileno() in self.selector.get_map():
            self.selector.unregister(self.keeper.next_fileno())
        self.status.spare = 0

    def _on_spare_death(self) -> None:
        self._unwatch_spare()
        self.spare.reap()
        self.status.write(self.rundir)
        if not self.stopping:
            _say(f"the spare engine {self.spare.status.last_exit}; there will be another when the engine starts again")

    def _on_fdstore(self) -> None:
        if not self.keeper.serve():
            self.selector.unregister(self.keeper.fileno())

    def _on_death(self, child: Child) -> None:
        was_ready = child.status.ready >= child.status.started
        self._reap(child)
        if self.stopping:
            return
        if child.process is None and not self.announced and child.status.last_exit.startswith("ended"):
            # It ended by itself at the first try, so it would again; its own message stands above ours.
            if child.status.last_exit != exit_in_words(EXIT_CONFIG):
                _say(f"the {child.name} {child.status.last_exit} before the switch was ready; giving up")
            self._give_up()
        elif child.died_too_often():
            times = f"{_GIVE_UP_DEATHS} times in {_GIVE_UP_SECONDS:.0f} s"
            _say(f"the {child.name} died {times}, the last time it {child.status.last_exit}; giving up")
            self._give_up()
        else:
            child.schedule_restart()
            state = "" if was_ready else " before it was ready"
            _say(f"the {child.name} {child.status.last_exit}{state}; starting it again")
        self.status.write(self.rundir)

    def _give_up(self) -> None:
        self.exit_code = 1
        self.stopping = True

    def _reap(self, child: Child) -> None:
        self.selector.unregister(child.pidfd)
        child.reap()
        if child is self.engine:
            if self.keeper.fileno() in self.selector.get_map():
                self.selector.unregister(self.keeper.fileno())
            self.keeper.disconnect()

    def _on_notify(self) -> None:
        *lines, self._notified = (self._notified + os.read(self._notify_read, 65536)).split(b"\n")
        for line in lines:
            try:
                self._ready(json.loads(line))
            except ValueError:
                _say("a message from the control process was cut off, as when it is killed; it is ignored")

    def _ready(self, message: dict[str, Any]) -> None:
        now = time.time()
        recovered = []
        for child in self._children():
            status = child.status
            if status.running and status.ready < status.started:
                status.ready = now
                if status.restarts:
                    recovered.append(
                        f"the {child.name} is back {now - status.last_exit_at:.1f} s after it {status.last_exit}"
                    )
        self.status.write(self.rundir)
        if self.has_spare and self.spare.process is None:
            self._start_spare()
        if self.announced:
            for text in recovered:
                _say(text)
            return
        self.announced = True
        self.on_ready()
        failed = message["failed"]
        ports = _count(message["ports"], "port")
        if failed:
            ports = f"{message['ports'] - len(failed)} of {ports} (failed, and tried again: {', '.join(failed)})"
        seconds = time.monotonic() - self.began
        print(f"ready: {_count(message['bridges'], 'bridge')}, {ports}, forwarding after {seconds:.1f} s", flush=True)

    def _on_signal(self, signals: socket.socket) -> None:
        if is_end(signals):
            self.stopping = True

    def _reopen_log(self) -> None:
        """Open the log file anew, and have all others do so."""
        reopen_log()
        for child in (self.engine, self.spare, self.control):
            if child.process is not None:
                child.process.send_signal(SIGNAL)
        self.on_reopen()

    def _stop_children(self) -> None:
        """Stop control before the engine, so that it does not try to bring back what goes away."""
        self.stopping = True
        for child in (self.control, self.spare, self.engine):
            if child.process is None:
                continue
            child.process.terminate()
            deadline = time.monotonic() + _STOP_SECONDS[child.role]
            while child.process is not None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    _say(f"the {child.name} (process {child.process.pid}) did not stop when asked; killing it")
                    self.exit_code = self.exit_code or 1
                    child.process.kill()
                    self._reap(child)
                    break
                self._dispatch(remaining)


def engine_command(rundir: Path, settings: EngineSettings) -> list[str]:
    return [sys.executable, "-m", "penstock.engine", "--rundir", str(rundir), *settings.arguments()]


def control_command(rundir: Path, config: Path) -> list[str]:
    return [sys.executable, "-m", "penstock.switch", "--rundir", str(rundir), "--config", str(config)]


def _die_with_parent(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program: ask to be stopped should the supervisor be killed, and ignore
    the signal for the log file until its program knows what to do about it.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        ignore_signal()

    return arrange


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(text: str) -> None:
    print(f"penstock: {text}", file=sys.stderr, flush=True)
