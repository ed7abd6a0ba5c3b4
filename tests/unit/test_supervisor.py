"""The supervisor on tiny children: start, restart, back-off, stop, descriptors kept, locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.switch.status import SupervisorStatus, exit_in_words

READY = """
import json, os, signal, sys, time
os.write(int(os.environ["PENSTOCK_NOTIFY"]), json.dumps({"bridges": 1, "ports": 2, "failed": FAILED}).encode() + b"\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""
WAIT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""
RUN = """
import sys
from pathlib import Path
from penstock.switch.rundir import RundirError
from penstock.switch.supervisor import Supervisor
rundir, engine, control = sys.argv[1:]
try:
    sys.exit(Supervisor(Path(rundir), Path("penstock.toml"), [sys.executable, engine], [sys.executable, control]).run())
except RundirError as error:
    sys.exit(str(error))
"""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, directory: Path, engine: str = WAIT, control: str = READY.replace("FAILED", "[]")) -> None:
        self.rundir = directory / "run"
        for name, text in (("engine.py", engine), ("control.py", control)):
            (directory / name).write_text(textwrap.dedent(text))
        children = [str(directory / "engine.py"), str(directory / "control.py")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(self.rundir), *children],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def status(self) -> SupervisorStatus | None:
        return SupervisorStatus.read(self.rundir)

    def ready(self) -> SupervisorStatus:
        def both() -> SupervisorStatus | None:
            status = self.status()
            mine = status is not None and status.pid == self.process.pid
            return status if mine and status.engine.ready and status.control.ready else None

        found: SupervisorStatus = wait_for(both, "ready")
        return found

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def run(**children: str) -> Running:
        started.append(Running(tmp_path, **children))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_both_says_ready_and_stops_them(start: Callable[..., Running], number: int) -> None:
    running = start()
    status = running.ready()
    code, out, err = running.end(number)
    assert code == 0
    assert out.startswith("ready: 1 bridge, 2 ports, forwarding after ")
    assert err == ""
    for child in (status.engine, status.control):
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def test_ready_line_names_failed_ports(start: Callable[..., Running]) -> None:
    running = start(control=READY.replace("FAILED", '["eth1"]'))
    running.ready()
    _code, out, _err = running.end()
    assert out.startswith("ready: 1 bridge, 1 of 2 ports (failed, and tried again: eth1), forwarding after ")


def test_a_message_cut_off_does_not_disturb(start: Callable[..., Running]) -> None:
    control = READY.replace("FAILED", "[]").replace(
        "os.write(", "os.write(int(os.environ['PENSTOCK_NOTIFY']), b'{\\n'); os.write(", 1
    )
    running = start(control=control)
    running.ready()
    code, out, err = running.end()
    assert code == 0
    assert out.startswith("ready: ")
    assert "a message from the control process was cut off" in err


@pytest.mark.parametrize("role", ["engine", "control"])
def test_a_killed_child_is_restarted_at_once_and_the_status_tells(start: Callable[..., Running], role: str) -> None:
    running = start()
    before = getattr(running.ready(), role)
    os.kill(before.pid, signal.SIGKILL)

    def restarted() -> Any:
        child = getattr(running.status(), role)
        return child if child.pid not in (0, before.pid) else None

    after = wait_for(restarted, "restart", 2.0)
    assert after.restarts == 1
    assert after.last_exit == "was killed by signal 9 (SIGKILL)"
    assert after.started - after.last_exit_at < 0.5
    assert after.history.startswith("was killed by signal 9 (SIGKILL) at ")
    assert "restarted 0." in after.history
    code, _out, err = running.end()
    assert code == 0
    name = {"engine": "engine", "control": "control process"}[role]
    assert f"the {name} was killed by signal 9 (SIGKILL); starting it again" in err


def test_gives_up_on_a_child_that_keeps_dying(start: Callable[..., Running]) -> None:
    running = start(engine="import os, time; time.sleep(0.1); os.kill(os.getpid(), 9)")
    code, _out, err = running.ended()
    assert code == 1
    assert "the engine died 5 times in 10 s, the last time it was killed by signal 9 (SIGKILL); giving up" in err


def test_gives_up_at_once_on_a_child_that_cannot_start(start: Callable[..., Running]) -> None:
    code, _out, err = start(engine="import sys; sys.exit('no memory')", control=WAIT).ended()
    assert code == 1
    assert "no memory" in err
    assert "the engine ended with exit code 1 before the switch was ready; giving up" in err


def test_a_bad_configuration_ends_without_more_words(start: Callable[..., Running]) -> None:
    code, out, err = start(control="import sys; print('file: wrong', file=sys.stderr); sys.exit(78)").ended()
    assert (code, out, err) == (1, "", "file: wrong\n")


def test_a_child_that_ignores_sigterm_is_killed(start: Callable[..., Running]) -> None:
    stubborn = READY.replace("FAILED", "[]").replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
    running = start(control=stubborn)
    running.ready()
    code, _out, err = running.end()
    assert code == 1
    assert "did not stop when asked; killing it" in err


def test_refuses_a_second_start_and_names_the_first(start: Callable[..., Running], tmp_path: Path) -> None:
    first = start()
    first.ready()
    code, _out, err = Running(tmp_path).ended()
    assert code == 1
    assert f"penstock already runs on {first.rundir} (process {first.process.pid})" in err
    assert first.process.poll() is None


def test_the_lock_is_not_inherited(start: Callable[..., Running], tmp_path: Path) -> None:
    """Children that outlive a killed supervisor (here by ignoring SIGTERM) must not keep the next one out."""
    first = start(engine=WAIT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN"))
    engine = first.ready().engine.pid
    first.process.kill()
    first.process.wait()
    try:
        os.kill(engine, 0)
        second = start()
        second.ready()
        assert second.end()[0] == 0
    finally:
        os.kill(engine, signal.SIGKILL)


def test_children_end_with_a_killed_supervisor(start: Callable[..., Running]) -> None:
    running = start()
    status = running.ready()
    running.process.kill()
    running.process.wait()
    for child in (status.engine, status.control):
        wait_for(lambda pid=child.pid: not Path(f"/proc/{pid}/stat").exists() or _is_zombie(pid), "end of child")


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_rundir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "file" / "run"), "x", "y"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert blocked.returncode == 1
    assert f"run directory {tmp_path}/file/run cannot be made: Not a directory" in blocked.stderr


STORING = """
import json, os, signal, sys
from pathlib import Path
from penstock.engine.fdstore import FdStore
store = FdStore()
taken = store.take_all()
found = {name: [os.pread(fd, 100, 0).decode() for fd in fds] for name, fds in taken.items()}
report = Path(sys.argv[0]).with_name("report.json")
if not taken:
    fds = []
    for text in ("one", "two", "three"):
        fd = os.memfd_create(text)
        os.write(fd, text.encode())
        fds.append(fd)
    store.store("vm1", fds[:2])
    store.store("vm2", fds[2:])
    store.store("vm3", fds)
    store.forget("vm3")
    store.forget("never there")
else:
    store.store("vm1", taken["vm2"])
report.write_text(json.dumps(found))
report.rename(report.with_name(f"report-{os.getpid()}.json"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""


def test_descriptors_outlive_a_killed_engine(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(engine=STORING)

    def report() -> Any:
        status = running.status()
        file = tmp_path / f"report-{status.engine.pid}.json" if status else tmp_path / "none"
        return (status.engine.pid, json.loads(file.read_text())) if status and file.exists() else None

    pid, found = wait_for(report, "first engine")
    assert found == {}
    reports = [{"vm1": ["one", "two"], "vm2": ["three"]}, {"vm1": ["three"], "vm2": ["three"]}]
    for expected in reports:
        os.kill(pid, signal.SIGKILL)
        pid, found = wait_for(lambda old=pid: (new := report()) and new[0] != old and new, "next engine")
        assert found == expected


def test_an_engine_that_talks_nonsense_to_the_store(start: Callable[..., Running]) -> None:
    nonsense = "import os, socket\nsocket.socket(fileno=int(os.environ['PENSTOCK_FDSTORE'])).send(b'what?')\n" + WAIT
    running = start(engine=nonsense)
    running.ready()
    assert running.end()[0] == 0


def test_without_a_supervisor_the_store_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.engine.fdstore import FdStore

    monkeypatch.delenv("PENSTOCK_FDSTORE", raising=False)
    store = FdStore()
    store.store("vm1", [0])
    store.forget("vm1")
    assert store.take_all() == {}


def test_exits_in_words() -> None:
    assert exit_in_words(3) == "ended with exit code 3"
    assert exit_in_words(-9) == "was killed by signal 9 (SIGKILL)"
    assert exit_in_words(-40) == "was killed by signal 40 (unknown)"
