"""Bridges under os-ken's own applications, driven over HTTP: a firewall and a router."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.lab import Lab, eventually
from tests.system.ofctl import OF13, Ofctl

ROOT = Path(__file__).parents[2]
CONTROLLERS = ROOT / ".venv" / "controllers"
PYTHON = CONTROLLERS / "bin" / "python"
LAUNCHER = Path(__file__).parent / "controllers" / "rest.py"
DATAPATH = "00000000000000a1"
URL = "http://127.0.0.1:8080"

pytestmark = pytest.mark.skipif(
    not (CONTROLLERS / ".installed").exists(), reason="os-ken's applications are not there: make controllers"
)


class Application:
    """One of os-ken's applications, and a bridge under it."""

    def __init__(self, lab: Lab, path: str) -> None:
        self.lab, self.path = lab, path

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> str:
        """What it answers to a request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{URL}/{self.path}/{path}", data, method=method)
        with self.lab.site.entered(), urllib.request.urlopen(request, timeout=10) as reply:
            return str(reply.read().decode())

    def waits(self, source: str, address: str, *, reached: bool) -> None:
        """Wait until pings are answered, or are not: the application answers before the switch has done it."""
        what = f"{source} {'reaches' if reached else 'does not reach'} {address}"
        eventually(what, lambda: bool(self.reaches(source, address)) == reached, 10)

    def reaches(self, source: str, address: str, count: int = 1) -> str:
        """What ping says; nothing when there was no answer."""
        ping = ("ping", "-c", str(count), "-i", "0.2", "-W", "1", address)
        done = self.lab.hosts[source].run(*ping, check=False)
        return done.stdout if done.returncode == 0 else ""


@contextmanager
def under(directory: Path, module: str, hosts: dict[str, str]) -> Iterator[Application]:
    """A bridge with these hosts, connected to an application."""
    ports = "\n".join(
        f'[bridge.br0.port.{name}]\ntype = "packet"\nnetdev = "{name}"\nofport = {number}'
        for number, name in enumerate(hosts, 1)
    )
    config = f"""
[bridge.br0]
controllers = ["tcp:127.0.0.1:6653"]
protocols = ["OpenFlow13"]
fail_mode = "secure"
datapath_id = "{DATAPATH}"
max_backoff = 1
{ports}
"""
    with Lab(directory) as lab:
        for name, address in hosts.items():
            lab.veth(name, address)
        lab.start(config)
        options = ("--ofp-tcp-listen-port", "6653", "--wsapi-host", "127.0.0.1", "--wsapi-port", "8080")
        with (directory / "application.log").open("wb") as log:
            lab.site.start(str(PYTHON), "-W", "ignore", str(LAUNCHER), *options, module, stdout=log, stderr=log)
        yield Application(lab, module.rpartition("_")[2])


def test_a_firewall(tmp_path: Path) -> None:
    hosts = {"one": "10.0.0.1/24", "two": "10.0.0.2/24", "three": "10.0.0.3/24"}
    with under(tmp_path, "os_ken.app.rest_firewall", hosts) as firewall:

        def enabled() -> bool:
            try:
                return "success" in firewall.ask("PUT", f"module/enable/{DATAPATH}")
            except OSError:  # it does not listen yet, or says that the switch is not connected
                return False

        eventually("the firewall is enabled", enabled, 20)
        firewall.waits("one", "10.0.0.2", reached=False)
        for source, target in (("10.0.0.1/32", "10.0.0.2/32"), ("10.0.0.2/32", "10.0.0.1/32")):
            rule = {"nw_src": source, "nw_dst": target, "nw_proto": "ICMP"}
            assert "Rule added" in firewall.ask("POST", f"rules/{DATAPATH}", rule)
        firewall.waits("one", "10.0.0.2", reached=True)
        firewall.waits("three", "10.0.0.2", reached=False)
        assert "Rule added" in firewall.ask("POST", f"rules/{DATAPATH}", {"in_port": "3", "dl_type": "IPv4"})
        assert "Rule added" in firewall.ask("POST", f"rules/{DATAPATH}", {"nw_dst": "10.0.0.3/32"})
        firewall.waits("three", "10.0.0.2", reached=True)
        deny = {"in_port": "3", "nw_dst": "10.0.0.2/32", "actions": "DENY", "priority": "10", "dl_type": "IPv4"}
        assert "Rule added" in firewall.ask("POST", f"rules/{DATAPATH}", deny)
        firewall.waits("three", "10.0.0.2", reached=False)
        firewall.waits("three", "10.0.0.1", reached=True)
        (switch,) = json.loads(firewall.ask("GET", f"rules/{DATAPATH}"))
        rules = switch["access_control_list"][0]["rules"]
        assert len(rules) == 5
        (mine,) = [rule for rule in rules if rule["actions"] == "DENY"]
        assert (mine["in_port"], mine["nw_dst"], mine["priority"]) == (3, "10.0.0.2", 10)
        assert "Rule deleted" in firewall.ask("DELETE", f"rules/{DATAPATH}", {"rule_id": str(mine["rule_id"])})
        firewall.waits("three", "10.0.0.2", reached=True)
        eventually("what was blocked is told", lambda: "Blocked packet" in (tmp_path / "application.log").read_text())
        assert "success" in firewall.ask("PUT", f"module/disable/{DATAPATH}")
        firewall.waits("one", "10.0.0.2", reached=False)


def test_a_router(tmp_path: Path) -> None:
    hosts = {"one": "172.16.20.10/24", "two": "172.16.10.10/24", "far": "172.16.30.1/24"}
    with under(tmp_path, "os_ken.app.rest_router", hosts) as router:

        def addressed() -> bool:
            try:
                return "Add address" in router.ask("POST", DATAPATH, {"address": "172.16.20.1/24"})
            except OSError:
                return False

        eventually("the router has an address", addressed, 20)
        for address in ("172.16.10.1/24", "172.16.30.30/24"):
            assert "Add address" in router.ask("POST", DATAPATH, {"address": address})
        for name, gateway in (("one", "172.16.20.1"), ("two", "172.16.10.1"), ("far", "172.16.30.30")):
            router.lab.hosts[name].run("ip", "route", "add", "default", "via", gateway)
        router.waits("one", "172.16.20.1", reached=True)
        router.waits("two", "172.16.10.1", reached=True)
        router.waits("one", "172.16.10.10", reached=True)
        assert "ttl=63" in router.reaches("one", "172.16.10.10", 3)
        assert "ttl=63" in router.reaches("two", "172.16.20.10", 3)
        # What is behind the far host is reached by a route, once there is one.
        router.lab.hosts["far"].run("ip", "address", "add", "192.168.7.1/32", "dev", "lo")
        router.lab.hosts["far"].run("ip", "link", "set", "lo", "up")
        router.waits("one", "192.168.7.1", reached=False)
        route = {"destination": "192.168.7.0/24", "gateway": "172.16.30.1"}
        assert "Add route" in router.ask("POST", DATAPATH, route)
        router.waits("one", "192.168.7.1", reached=True)
        assert "ttl=63" in router.reaches("one", "192.168.7.1", 3)
        flows = Ofctl(router.lab.switch.rundir)(*OF13, "dump-flows", "br0")
        assert "dec_ttl" in flows
        assert "Delete" in router.ask("DELETE", DATAPATH, {"address_id": "all"})
        router.waits("one", "172.16.10.10", reached=False)
