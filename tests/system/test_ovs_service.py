"""`penstock ovs`: ovsdb-server and penstock-vswitchd as one service; and Mininet on top of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.demo.hosts import Host
from penstock.demo.launch import PENSTOCK
from penstock.peers.ovsdb import SCHEMA

pytestmark = pytest.mark.needs("ovsdb-server", "ovsdb-tool", "ovs-vsctl")


class Site:
    """A host of its own, and a directory for the service's files."""

    def __init__(self, directory: Path) -> None:
        self.host, self.directory = Host("service"), directory
        places = {name: directory / name for name in ("RUNDIR", "LOGDIR", "DBDIR")}
        self.environment = {**os.environ, **{f"OVS_{name}": str(place) for name, place in places.items()}}
        self.database = places["DBDIR"] / "conf.db"

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.host.command(*words), env=self.environment, text=True, capture_output=True, timeout=timeout
        )

    def ovs(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(*PENSTOCK, "ovs", *words)

    def vsctl(self, *words: str) -> str:
        done = self.run("ovs-vsctl", "--timeout=20", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self) -> dict[str, int | None]:
        found: dict[str, int | None] = json.loads(self.ovs("status", "--json").stdout)
        return found

    def close(self) -> None:
        assert self.ovs("stop").returncode == 0
        self.host.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_start_status_stop_and_start_again(site: Site) -> None:
    assert site.status() == {"ovsdb-server": None, "penstock-vswitchd": None}
    assert site.ovs("status").returncode == 3
    begun = site.ovs("start", "--system-id", "host-7")
    assert begun.returncode == 0, begun.stderr
    assert [line[: line.index(" start")] for line in begun.stdout.splitlines()[1:]] == [
        "ovsdb-server",
        "penstock-vswitchd",
        "penstock-vswitchd",
    ]
    running = site.status()
    assert all(running.values())
    assert site.ovs("status").returncode == 0
    assert site.vsctl("get", "Open_vSwitch", ".", "external_ids:system-id") == "host-7"
    site.vsctl("add-br", "br0", "--", "set", "interface", "br0", "external_ids:kept=yes")
    assert site.ovs("start").stdout == "both run already\n"
    assert site.status() == running
    assert site.ovs("stop").stdout == "penstock-vswitchd stopped\novsdb-server stopped\n"
    assert "br0" not in site.host.links()
    assert site.ovs("stop").stdout == "neither runs\n"
    assert site.ovs("start").returncode == 0
    assert site.vsctl("get", "interface", "br0", "external_ids:kept") == "yes"
    assert site.vsctl("get", "Open_vSwitch", ".", "external_ids:system-id") == "host-7"
    assert "br0" in site.host.links()


def test_what_is_missing_is_started_alone(site: Site) -> None:
    assert site.ovs("start").returncode == 0
    before = site.status()
    os.kill(before["ovsdb-server"] or 0, 9)
    again = site.ovs("start")
    assert again.returncode == 0, again.stderr
    after = site.status()
    assert after["penstock-vswitchd"] == before["penstock-vswitchd"]
    assert after["ovsdb-server"] not in (None, before["ovsdb-server"])
    site.vsctl("add-br", "br1")


def test_a_switch_whose_daemon_was_killed_is_taken_over_or_stopped(site: Site) -> None:
    assert site.ovs("start").returncode == 0
    site.vsctl("add-br", "br0")
    os.kill(site.status()["penstock-vswitchd"] or 0, 9)
    assert site.ovs("start").stdout.startswith("penstock-vswitchd starts")
    os.kill(site.status()["penstock-vswitchd"] or 0, 9)
    assert "br0" in site.host.links()
    stopped = site.ovs("stop").stdout
    assert stopped == "the switch, whose daemon was killed, stopped\novsdb-server stopped\n"
    assert "br0" not in site.host.links()


def test_an_older_database_is_converted_and_kept(site: Site) -> None:
    schema = json.loads(SCHEMA.read_text())
    del schema["tables"]["Interface"]["columns"]["lldp"]
    schema["version"] = "8.0.0"
    older = site.directory / "older"
    older.write_text(json.dumps(schema))
    site.database.parent.mkdir()
    assert site.run("ovsdb-tool", "create", str(site.database), str(older)).returncode == 0
    begun = site.ovs("start")
    assert "converted to a newer schema" in begun.stdout, begun.stderr
    assert len(list(site.database.parent.glob("conf.db.backup8.0.0-*"))) == 1
    assert site.run("ovsdb-tool", "db-version", str(site.database)).stdout.strip() != "8.0.0"


def test_errors_say_what_to_do(site: Site) -> None:
    wrong = site.ovs("start", "--schema", str(site.directory / "none"))
    assert wrong.returncode == 1
    assert "ovsdb-tool create" in wrong.stderr
    site.environment["PATH"] = str(Path(PENSTOCK[0]).parent)
    done = subprocess.run([*PENSTOCK, "ovs", "start"], env=site.environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert "ovsdb-tool is not installed" in done.stderr
    site.environment["PATH"] = os.environ["PATH"]


@pytest.mark.needs("mn")
@pytest.mark.parametrize("topology", ["tree", "linear"])
def test_mininet_pings_all(site: Site, topology: str) -> None:
    begun = site.ovs("start")
    assert begun.returncode == 0, begun.stderr
    script = Path(__file__).with_name("mininet_pingall.py")
    done = site.run("/usr/bin/python3", str(script), topology, timeout=110)
    assert (done.returncode, done.stdout.strip()) == (0, "0.0"), done.stderr
    assert site.vsctl("list-br") == ""
