"""The command line in processes of its own, against a control process on an engine without packets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.switch.rundir import LOCK, take_lock
from penstock.switch.status import SupervisorStatus

ROOT = Path(__file__).parents[2]
CONFIG = """
[bridge.br0.port.vm1]
type = "dummy"
tag = 10
[bridge.br0.port.vm2]
type = "dummy"
trunks = [10, 20, 21, 22]
"""
FRAME = "ffffffffffff0200000000010800"


class Switch:
    """A control process, and the command line to talk to it."""

    def __init__(self, directory: Path) -> None:
        self.rundir = directory / "run"
        self.config = directory / "penstock.toml"
        self.log = directory / "control.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, config: str = CONFIG) -> None:
        self.config.write_text(config)
        self.start_again()

    def start_again(self) -> None:
        command = [sys.executable, "tests/unit/fake_engine.py", "--config", self.config, "--rundir", self.rundir]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)
        self.wait_for(lambda: self.cli("show").returncode == 0, "answers")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=10)

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "penstock.cli", *words, "--rundir", str(self.rundir)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30, **options)

    def json(self, *words: str) -> Any:
        result = self.cli(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def fails(self, *words: str) -> str:
        result = self.cli(*words)
        assert result.returncode == 1
        return result.stderr

    def port(self, name: str) -> dict[str, Any]:
        (found,) = [row for row in self.json("ports") if row["name"] == name]
        return found

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.log.read_text()}"
            time.sleep(0.05)


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    made = Switch(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def test_show_and_ports(switch: Switch) -> None:
    switch.start()
    page = switch.cli("show").stdout
    assert "bridge br0: MAC ageing 300 s, 8192 MAC addresses at most" in page
    assert "engine: process " in page
    listing = switch.cli("ports").stdout.splitlines()
    assert " ".join(listing[0].split()) == "BRIDGE PORT TYPE VLAN STATE MTU NETDEV MAC QUEUES OFFLOADS"
    assert "dummy  access 10       up " in listing[1]
    assert "dummy  trunk 10,20-22  up " in listing[2]
    shown = switch.json("show")
    assert [bridge["name"] for bridge in shown["bridges"]] == ["br0"]
    assert [port["name"] for port in shown["bridges"][0]["ports"]] == ["vm1", "vm2"]
    assert shown["engine"]["workers"] == 1


def test_counters_drops_fdb_and_flush(switch: Switch) -> None:
    switch.start()
    assert switch.json("stats")["vm1"]["rx_packets"] == 7
    assert list(switch.json("stats", "vm1")) == ["vm1"]
    assert "driver.kernel_dropped" in switch.cli("stats", "vm1").stdout
    (drop,) = switch.json("drops")
    assert (drop["port"], drop["reason"], drop["direction"], drop["count"]) == ("vm1", "mtu_exceeded", "tx", 2)
    assert switch.json("drops", "vm2") == []
    assert switch.cli("drops", "vm2").stdout == "nothing was dropped\n"
    assert switch.json("fdb", "br0")[0]["mac"] == "02:00:00:00:00:02"
    assert switch.cli("fdb", "br0").stdout.splitlines()[1].split() == ["vm1", "10", "02:00:00:00:00:02", "2"]
    assert switch.cli("flush", "br0").stdout == "1 MAC addresses forgotten\n"


def test_trace(switch: Switch, tmp_path: Path) -> None:
    switch.start()
    assert switch.json("trace", "vm1", FRAME)["outputs"] == [{"port": "vm1", "frame": FRAME}]
    (tmp_path / "frame").write_bytes(bytes.fromhex(FRAME))
    said = switch.cli("trace", "vm1", f"@{tmp_path}/frame").stdout
    assert "eth_type: 0x0800\n1. came in\n2. flooded\n" in said
    assert "the frame must be hexadecimal digits" in switch.fails("trace", "vm1", "zz" * 14)
    assert "a frame has 14 to 65553 bytes, this one 2" in switch.fails("trace", "vm1", "0102")
    assert "cannot be read: No such file" in switch.fails("trace", "vm1", "@/nonexistent")


def test_unknown_names(switch: Switch) -> None:
    switch.start()
    assert switch.fails("fdb", "br1") == "penstock: unknown bridge 'br1'; did you mean br0? (known: br0)\n"
    assert switch.fails("stats", "vm9") == "penstock: unknown port 'vm9'; did you mean vm2? (known: vm1, vm2)\n"
    assert "unknown port 'vm9'" in switch.fails("capture", "vm9", "-w", "-")
    result = switch.cli("port")
    assert result.returncode == 2
    assert "unknown verb 'port'; did you mean ports?" in result.stderr


def test_top_prints_one_sample(switch: Switch) -> None:
    switch.start()
    found = switch.json("top", "--interval", "0.2")
    assert found["seconds"] == pytest.approx(0.2, abs=0.2)
    (worker,) = found["workers"]
    assert worker["load"] == pytest.approx(0.5, abs=0.01)
    assert worker["cycles_per_packet"] == pytest.approx(100, rel=0.01)
    said = switch.cli("top", "--once", "--interval", "0.2").stdout
    assert "CYCLES/PACKET" in said


def test_capture_to_a_file_and_to_a_pipe(switch: Switch, tmp_path: Path) -> None:
    switch.start()
    file = tmp_path / "vm1.pcapng"
    result = switch.cli("capture", "vm1", "-w", str(file), "--count", "5", "--snaplen", "60")
    assert result.returncode == 0
    assert result.stderr == "capturing on port vm1\n5 frames captured, 0 lost\n"
    tshark = ["tshark", "-r", str(file), "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len"]
    lines = subprocess.run(tshark, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["100\t60"] * 5
    pipe = f"{sys.executable} -m penstock.cli capture vm1 -w - --rundir {switch.rundir} | tshark -r - -c 3"
    piped = subprocess.run(["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert len(piped.stdout.splitlines()) == 3
    assert "Traceback" not in piped.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_capture_is_whole(switch: Switch, tmp_path: Path, number: int) -> None:
    switch.start()
    file = tmp_path / "vm1.pcapng"
    command = [sys.executable, "-m", "penstock.cli", "capture", "vm1", "-w", file, "--rundir", switch.rundir]
    capture = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    switch.wait_for(lambda: file.exists() and file.stat().st_size > 1000, "frames")
    capture.send_signal(number)
    _, said = capture.communicate(timeout=10)
    assert capture.returncode == 0
    assert "frames captured, 0 lost" in said
    assert subprocess.run(["capinfos", file], capture_output=True, check=False).returncode == 0


def test_reload_changes_only_what_differs(switch: Switch) -> None:
    switch.start()
    assert switch.cli("reload").stdout == "nothing to change\n"
    switch.config.write_text(CONFIG.replace("tag = 10", "tag = 11").replace("vm2", "vm3"))
    assert switch.json("reload") == {
        "changes": [
            "remove port vm2 from bridge br0",
            "change port vm1 of bridge br0",
            "add port vm3 (dummy) to bridge br0",
        ],
        "failures": [],
        "notes": [],
    }
    assert switch.port("vm1")["vlan"]["tag"] == 11


def test_a_bad_file_changes_nothing(switch: Switch) -> None:
    switch.start()
    before = switch.json("ports")
    switch.config.write_text(CONFIG.replace("tag = 10", "tag = 5000"))
    said = switch.fails("reload")
    assert "bridge.br0.port.vm1.tag: 5000 is wrong: must be an integer from 1 to 4094" in said
    assert said.startswith(f"penstock: the configuration is wrong and nothing was changed:\n{switch.config}: bridge")
    assert switch.json("ports") == before


def test_engine_settings_wait_for_the_next_start(switch: Switch) -> None:
    switch.start()
    switch.config.write_text(CONFIG + '[engine]\npoll = "busy"\n')
    for _ in range(2):
        result = switch.cli("reload")
        assert result.returncode == 0
        assert 'engine.poll is now "busy" in the file (was "adaptive")' in result.stderr


MISSING = '[bridge.br0.port.eth1]\ntype = "packet"\nnetdev = "missing"\n'


def test_a_port_that_cannot_be_made_is_told_retried_and_disturbs_nothing(switch: Switch) -> None:
    switch.start()
    switch.config.write_text(CONFIG + MISSING)
    said = switch.fails("reload")
    assert said == "penstock: port eth1: net device missing does not exist\n"
    row = switch.port("eth1")
    assert (row["state"], row["error"]) == ("error", "port eth1: net device missing does not exist")
    assert "net device missing does not exist" in switch.cli("show").stdout
    assert switch.port("vm1")["state"] == "up"
    (switch.rundir / "missing-netdev").touch()
    switch.wait_for(lambda: switch.port("eth1")["state"] == "up", "retry")
    assert switch.log.read_text().count("cannot add port eth1") == 1


def test_a_port_whose_device_vanished_is_made_again(switch: Switch) -> None:
    switch.start()
    (switch.rundir / "broken-ports").write_text("vm2")
    switch.wait_for(lambda: "port vm2 is broken (device vm2 is gone); making it again" in switch.log.read_text(), "log")
    switch.wait_for(lambda: switch.port("vm2")["state"] == "up", "repair")


def test_a_restarted_control_goes_on_from_what_was_accepted(switch: Switch) -> None:
    switch.start()
    switch.config.write_text("not even TOML")
    switch.stop(signal.SIGKILL)
    assert (switch.rundir / "control.sock").exists()
    switch.start_again()
    assert [row["name"] for row in switch.json("ports")] == ["vm1", "vm2"]
    assert "going on with the configuration accepted before the restart" in switch.log.read_text()


def test_a_second_control_process_is_refused(switch: Switch) -> None:
    switch.start()
    command = [sys.executable, "tests/unit/fake_engine.py", "--config", switch.config, "--rundir", switch.rundir]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert second.returncode == 1
    assert switch.process is not None
    assert f"a control process already runs on {switch.rundir} (process {switch.process.pid})" in second.stderr
    assert switch.cli("show").returncode == 0


def test_sigterm_ends_it_cleanly(switch: Switch) -> None:
    switch.start()
    assert switch.stop() == 0
    assert not (switch.rundir / "control.sock").exists()


def test_a_bad_file_at_the_start(switch: Switch, tmp_path: Path) -> None:
    switch.config.write_text('[bridge.br0.port.x]\ntype = "tun"')
    result = switch.cli("run", "--config", str(switch.config))
    assert result.returncode == 1
    assert "bridge.br0.port.x.type: unknown type 'tun'" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_said_when_nothing_runs(switch: Switch) -> None:
    expected = f"penstock: penstock does not run on {switch.rundir}: start it with 'penstock run'"
    for verb in (["show"], ["ports"], ["reload"], ["fdb", "br0"], ["top"], ["capture", "vm1", "-w", "-"]):
        assert switch.fails(*verb).startswith(expected)
    assert "nothing to stop" in switch.fails("stop")


def test_what_is_said_when_the_engine_or_control_is_down(switch: Switch) -> None:
    switch.rundir.mkdir()
    lock = take_lock(switch.rundir / LOCK, "test")
    status = SupervisorStatus(pid=os.getpid(), started=time.time(), config="x")
    status.control.last_exit, status.control.last_exit_at = "was killed by signal 9 (SIGKILL)", time.time()
    status.write(switch.rundir)
    try:
        said = switch.fails("show")
        assert said.startswith("penstock: the control process is down: it was killed by signal 9 (SIGKILL) at ")
        switch.start()
        status.engine.last_exit, status.engine.last_exit_at = "was killed by signal 11 (SIGSEGV)", time.time()
        status.write(switch.rundir)
        (switch.rundir / "engine-down").touch()
        switch.stop(signal.SIGKILL)
        with pytest.raises(AssertionError, match="answers"):
            switch.wait_for(lambda: switch.process is None, "answers", 0.1)
        command = [sys.executable, "tests/unit/fake_engine.py", "--config", switch.config, "--rundir", switch.rundir]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        switch.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        switch.wait_for(lambda: "the engine is down" in switch.fails("show"), "engine down")
        said = switch.fails("ports")
        assert said.startswith("penstock: the engine is down: it was killed by signal 11 (SIGSEGV) at ")
    finally:
        os.close(lock)


def test_the_command_line_is_light_and_quick(switch: Switch) -> None:
    code = (
        "import sys; from penstock.cli.main import VERBS; from importlib import import_module\n"
        "for verb, module in VERBS.items(): import_module(module)\n"
        "print([name for name in ('numba', 'llvmlite', 'numpy', 'pydantic', 'rich', 'asyncio') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_help_lists_every_verb(switch: Switch) -> None:
    result = subprocess.run([sys.executable, "-m", "penstock.cli", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    for verb in (
        "run",
        "reload",
        "stop",
        "show",
        "ports",
        "fdb",
        "stats",
        "drops",
        "top",
        "capture",
        "trace",
        "doctor",
    ):
        assert f"\n  {verb} " in result.stdout
