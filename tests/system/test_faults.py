"""Wrong input and things that break outside: a message that names object and value, and nothing else disturbed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.demo import traffic
from penstock.demo.echo import ping
from penstock.demo.launch import PENSTOCK, LaunchError
from tests.system.lab import Lab, eventually

GOOD = """
[bridge.br0]
[bridge.br0.port.vm1]
type = "tap"
[bridge.br0.port.vm2]
type = "tap"
"""


def refused(lab: Lab, config: str) -> str:
    """What `penstock run` says about a configuration it must refuse."""
    file = lab.directory / "bad.toml"
    file.write_text(config)
    done = lab.site.run(
        *PENSTOCK, "run", "--config", str(file), "--rundir", str(lab.directory / "refused"), check=False, timeout=60
    )
    assert done.returncode != 0
    assert "ready" not in done.stdout
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[bridge.br0.port.vm1]\ntype = 'tap'\ncolour = 'red'", ["bridge.br0.port.vm1", "colour"]),
        ("[bridge.br0.port.vm1]\ntype = 'tap'\ntag = 5000", ["bridge.br0.port.vm1.tag", "5000", "4094"]),
        ("[bridge.br0.port.vm1]\ntype = 'tap'\n[bridge.br0.port.vm1]\ntype = 'tap'", ["vm1"]),
        ("[bridge.br0.port.vm1]\ntype = 'tap'\n[bridge.br1.port.vm1]\ntype = 'tap'", ["vm1", "br0", "br1"]),
        (
            "[bridge.br0.port.a]\ntype = 'packet'\nnetdev = 'x0'\n[bridge.br0.port.b]\ntype = 'packet'\nnetdev = 'x0'",
            ["x0", "port.a"],
        ),
        ("[bridge.br0.port.a]\ntype = 'packet'", ["netdev", "missing"]),
        ("[bridge.br0.port.a]\ntype = 'patch'\npeer = 'b'", ["peer", "b"]),
        ("[bridges]", ["bridges"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_at_the_start(lab: Lab, config: str, words: list[str]) -> None:
    said = refused(lab, config)
    for word in words:
        assert word in said


def test_a_missing_file_is_refused(lab: Lab) -> None:
    done = lab.site.run(
        *PENSTOCK, "run", "--config", "/nowhere.toml", "--rundir", str(lab.directory / "r"), check=False
    )
    assert done.returncode != 0
    assert "/nowhere.toml" in done.stderr


@pytest.fixture
def started(lab: Lab) -> Lab:
    lab.start(GOOD)
    lab.plug("vm1", "10.0.0.1/24")
    lab.plug("vm2", "10.0.0.2/24")
    return lab


def reload_fails(lab: Lab, config: str) -> str:
    lab.switch.config.write_text(config)
    done = lab.switch.command("reload")
    assert done.returncode == 1
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3, "the other ports go on"
    return done.stderr


def test_a_netdev_that_does_not_exist(started: Lab) -> None:
    bad = GOOD + "[bridge.br0.port.eth1]\ntype = 'packet'\nnetdev = 'missing0'"
    said = reload_fails(started, bad)
    assert "eth1" in said
    assert "missing0" in said
    assert "missing0" in started.state("eth1")["error"]
    started.veth("eth1", "10.0.0.3/24")
    started.site.change("eth1", ifname="missing0")
    eventually("the port comes up once its netdev is there", lambda: started.state("eth1")["state"] == "up")
    assert ping(started.hosts["vm1"], "10.0.0.3").received == 3


def test_a_netdev_in_use_by_another_switch(started: Lab, tmp_path: Path) -> None:
    started.veth("eth1")
    port = "[bridge.br0.port.eth1]\ntype = 'packet'\nnetdev = 'eth1'\n"
    started.reload(GOOD + port)
    config = tmp_path / "other.toml"
    config.write_text(port)
    other = started.site.start(
        *PENSTOCK, "run", "--config", str(config), "--rundir", str(tmp_path / "other"), stderr=subprocess.STDOUT
    )
    assert other.stdout is not None
    lines = []
    while not any("in use" in line for line in lines):
        lines.append(other.stdout.readline())
        assert lines[-1], f"the other switch ended without saying why: {lines}"
    assert "eth1" in next(line for line in lines if "in use" in line)
    other.terminate()
    other.communicate(timeout=20)
    assert ping(started.hosts["vm1"], "10.0.0.2").received == 3


def test_a_netdev_in_a_kernel_bridge(started: Lab) -> None:
    started.veth("eth1")
    started.site.netlink.link("add", ifname="kbridge", kind="bridge")
    started.site.change("eth1", master=started.site.index("kbridge"))
    said = reload_fails(started, GOOD + "[bridge.br0.port.eth1]\ntype = 'packet'\nnetdev = 'eth1'\n")
    assert "eth1" in said
    assert "kbridge" in said


def test_no_rights(lab: Lab) -> None:
    """Root's capabilities dropped: the ports fail with what is missing, each by name."""
    config = lab.directory / "penstock.toml"
    config.write_text("[bridge.br0.port.vm1]\ntype = 'tap'\n[bridge.br0.port.eth1]\ntype = 'packet'\nnetdev = 'lo'")
    process = lab.site.start(
        "setpriv", "--bounding-set=-all", "--inh-caps=-all",
        *PENSTOCK, "run", "--config", str(config), "--rundir", str(lab.directory / "run"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while not ("port vm1" in said and "port eth1" in said):
        line = process.stdout.readline()
        assert line, f"it ended, saying only {said}"
        said += line
    assert said.count("no right") >= 2
    process.terminate()
    process.communicate(timeout=20)


def test_a_tap_deleted_from_outside_is_made_again(started: Lab) -> None:
    receiving = traffic.receiver(started.hosts["vm2"], "udp", 5001, "--idle", "2")
    started.reload(GOOD + "[bridge.br0.port.vm3]\ntype = 'tap'")
    started.plug("vm3", "10.0.0.3/24")
    sending = traffic.sender(started.hosts["vm1"], "udp", "10.0.0.2", 5001, "--rate", "2000", "--seconds", "3")
    started.hosts["vm3"].delete("eth0")
    eventually("a new TAP is there", lambda: "vm3" in started.site.links())
    eventually("the port is up", lambda: started.state("vm3")["state"] == "up")
    assert "vm3" in started.switch.log.read_text()
    assert "deleted" in started.switch.log.read_text()
    started.plug("vm3", "10.0.0.3/24")
    assert ping(started.hosts["vm1"], "10.0.0.3").received == 3
    assert traffic.result(receiving)["received"] == traffic.result(sending)["sent"]


def test_a_netdev_deleted_from_outside_is_told(started: Lab) -> None:
    started.veth("eth1", "10.0.0.3/24")
    started.reload(GOOD + "[bridge.br0.port.eth1]\ntype = 'packet'\nnetdev = 'eth1'\n")
    assert ping(started.hosts["vm1"], "10.0.0.3").received == 3
    started.site.delete("eth1")
    eventually("the port says so", lambda: "eth1" in started.state("eth1")["error"])
    assert ping(started.hosts["vm1"], "10.0.0.2").received == 3


def test_two_switches_cannot_share_a_run_directory(started: Lab) -> None:
    done = started.site.run(
        *PENSTOCK, "run", "--config", str(started.switch.config), "--rundir", str(started.switch.rundir), check=False
    )
    assert done.returncode != 0
    assert "already runs" in done.stderr
    assert ping(started.hosts["vm1"], "10.0.0.2").received == 3


def test_verbs_say_when_no_switch_runs(tmp_path: Path) -> None:
    for verb in (["ports"], ["reload"], ["stop"], ["fdb", "br0"]):
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *verb, "--rundir", str(tmp_path)], text=True, capture_output=True
        )
        assert done.returncode == 1
        assert str(tmp_path) in done.stderr
        assert "Traceback" not in done.stderr


def test_a_switch_that_does_not_start_is_told(lab: Lab) -> None:
    with pytest.raises(LaunchError, match="colour"):
        lab.start("[bridge.br0]\ncolour = 'red'")
    lab.running = None
