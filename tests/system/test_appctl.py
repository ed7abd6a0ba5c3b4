"""ovs-appctl against penstock-vswitchd."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.demo.echo import ping
from tests.system.lab import eventually
from tests.system.vswitchd import Daemon

pytestmark = pytest.mark.needs("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")
ROOT = Path(__file__).parents[2]
ICMP = "ffffffffffff0200000000010800450000240000000040010000c0a80001c0a800020800f7ff00000000" + 8 * "00"


class Appctl:
    """Runs ovs-appctl on a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._environment = os.environ | {"OVS_RUNDIR": str(daemon.directory)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command as it ended."""
        command = self._daemon.host.command("ovs-appctl", "--timeout=20", *words)
        return subprocess.run(command, env=self._environment, text=True, capture_output=True, timeout=30)

    def __call__(self, *words: str) -> str:
        """What it said; it has to succeed."""
        done = self.run(*words)
        assert done.returncode == 0, f"ovs-appctl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def refused(self, *words: str) -> str:
        """The error of what has to fail."""
        done = self.run(*words)
        assert done.returncode == 2, done.stdout
        return done.stderr


class Site:
    """A daemon, with two hosts at br0."""

    def __init__(self, directory: Path) -> None:
        self.daemon = Daemon(directory)
        self.appctl = Appctl(self.daemon)
        self.daemon.vsctl("add-br", "br0")
        self.one = self.daemon.behind("one", "192.168.0.1/24")
        self.two = self.daemon.behind("two", "192.168.0.2/24")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("appctl"))
    yield site
    site.daemon.close()


@pytest.fixture
def appctl(site: Site) -> Appctl:
    return site.appctl


def addresses(shown: str) -> dict[str, tuple[str, str, str]]:
    """fdb/show: MAC to port, VLAN, age."""
    rows = [line.split() for line in shown.splitlines()[1:]]
    return {mac: (port, vlan, age) for port, vlan, mac, age in rows}


def test_addresses(site: Site, appctl: Appctl) -> None:
    assert ping(site.one, "192.168.0.2", timeout=3).received == 3
    known = addresses(appctl("fdb/show", "br0"))
    assert known[site.one.mac("eth0")][:2] == ("1", "0")
    assert known[site.two.mac("eth0")][:2] == ("2", "0")
    appctl("fdb/add", "br0", "two", "0", "02:00:00:00:00:99")
    assert addresses(appctl("fdb/show", "br0"))["02:00:00:00:00:99"] == ("2", "0", "static")
    assert "Current static MAC entries in the table : 1" in appctl("fdb/stats-show", "br0")
    appctl("fdb/flush", "br0")
    assert "02:00:00:00:00:99" in addresses(appctl("fdb/show", "br0"))
    appctl("fdb/del", "br0", "0", "02:00:00:00:00:99")
    assert "02:00:00:00:00:99" not in addresses(appctl("fdb/show", "br0"))
    assert "is not known" in appctl.refused("fdb/del", "br0", "0", "02:00:00:00:00:99")
    assert "VLAN 4095" in appctl.refused("fdb/add", "br0", "two", "4095", "02:00:00:00:00:99")
    assert "unknown bridge 'br9'" in appctl.refused("fdb/show", "br9")


def test_bridges_and_ports(site: Site, appctl: Appctl) -> None:
    assert appctl("ofproto/list") == "br0\n"
    shown = appctl("dpif/show")
    assert re.search(r"^netdev@ovs-netdev: hit:\d+ missed:\d+$", shown, re.MULTILINE)
    assert re.search(r"^    one 1/\d+: \(system\)$", shown, re.MULTILINE)
    assert re.search(r"^    br0 65534/\d+: \(internal\)$", shown, re.MULTILINE)
    assert re.search(r"^  port \d+: two \(system\)$", appctl("dpctl/show"), re.MULTILINE)
    assert "actions=NORMAL" in appctl("bridge/dump-flows", "br0")
    assert "there are no upcalls" in appctl("upcall/show")


def test_traces(site: Site, appctl: Appctl) -> None:
    site.daemon.ofctl("add-flow", "br0", "priority=7,icmp,in_port=1,actions=output:2")
    try:
        for words in (("icmp,in_port=1",), ("in_port=one", ICMP)):
            said = appctl("ofproto/trace", "br0", *words)
            assert 'bridge("br0")' in said
            assert re.search(r"^ 0\. priority=7,icmp,in_port=.*\n    output:", said, re.MULTILINE), said
            assert said.endswith("Datapath actions: 2\n")
        site.daemon.ofctl("mod-flows", "br0", "icmp,in_port=1,actions=drop")
        assert appctl("ofproto/trace", "br0", "icmp,in_port=1").endswith("Datapath actions: drop\n")
    finally:
        site.daemon.ofctl("del-flows", "br0", "icmp,in_port=1")
    assert "in_port" in appctl.refused("ofproto/trace", "br0", "icmp")
    assert "hexadecimal" in appctl.refused("ofproto/trace", "br0", "in_port=1", "xyz")
    assert "unknown bridge" in appctl.refused("ofproto/trace", "br9", "in_port=1")


def test_what_flow_caches_hold(site: Site, appctl: Appctl) -> None:
    flows = ("table=0,icmp,in_port=1,actions=resubmit(,3)", "table=3,nw_dst=192.168.0.2,actions=output:2")
    for flow in flows:
        site.daemon.ofctl("add-flow", "br0", flow.replace("table=3,", "table=3,ip,"))
    try:
        assert ping(site.one, "192.168.0.2", timeout=3).received == 3
        shown = appctl("dpif/dump-flows", "br0")
        (line,) = [each for each in shown.splitlines() if "nw_dst=192.168.0.2" in each]
        assert re.match(
            r"bridge\(br0\),icmp,in_port=one,.*, worker:0, tables:0,3, actions:resubmit\(,3\);output:", line
        )
        assert line in appctl("dpctl/dump-flows")
        site.daemon.ofctl("del-flows", "br0", "table=3")
        assert line not in appctl("dpctl/dump-flows")
    finally:
        site.daemon.ofctl("del-flows", "br0", "icmp,in_port=1")
    assert "unknown bridge 'br9'" in appctl.refused("dpif/dump-flows", "br9")


def test_workers(site: Site, appctl: Appctl) -> None:
    appctl("dpif-netdev/pmd-stats-clear")
    assert ping(site.one, "192.168.0.2", timeout=3).received == 3
    shown = appctl("dpif-netdev/pmd-stats-show")
    received = int(re.findall(r"packets received: (\d+)", shown)[0])
    assert 6 <= received < 1000
    assert re.search(rf"avg processing cycles per packet: [\d.]+ \(\d+/{received}\)", shown)
    perf = appctl("dpif-netdev/pmd-perf-show")
    assert re.search(r"Rx packets: +\d+  \(\d+ Kpps, \d+ cycles/pkt\)", perf)
    assert appctl("dpif-netdev/pmd-stats-show", "-pmd", "77") == ""
    for words in (("pmd-stats-show", "-nosuch"), ("pmd-perf-show", "-it", "5"), ("pmd-stats-clear", "other@dp")):
        assert "is neither an option nor a datapath" in appctl.refused(f"dpif-netdev/{words[0]}", *words[1:])
    queues = appctl("dpif-netdev/pmd-rxq-show", "netdev@ovs-netdev")
    assert re.search(r"port: one +queue-id:  0 \(enabled\)", queues)
    assert re.search(r"port: two ", queues)


def test_the_process(site: Site, appctl: Appctl) -> None:
    assert appctl("version").startswith("ovs-vswitchd (Open vSwitch) ")
    commands = appctl("list-commands")
    for name in ("fdb/show", "ofproto/trace", "dpif-netdev/pmd-perf-show", "exit"):
        assert f"  {name} " in commands
    assert re.search(r"bridges:1 ports:3 rules:\d+ ", appctl("memory/show"))
    total = int(appctl("coverage/read-counter", "mac_learned"))
    assert total >= 2
    assert re.search(rf"^mac_learned .* total: {total}$", appctl("coverage/show"), re.MULTILINE)
    assert appctl("coverage/read-counter", "drop_patch_loop") == "0\n"
    assert "No such counter" in appctl.refused("coverage/read-counter", "nosuch")
    assert "not a valid command" in appctl.refused("nosuch/command")
    assert "requires at least 1" in appctl.refused("fdb/show")


def test_the_log(appctl: Appctl) -> None:
    name = "ovsdb.follow"
    assert re.search(rf"^{name} +INFO$", appctl("vlog/list"), re.MULTILINE)
    appctl("vlog/set", f"{name}:any:dbg")
    assert re.search(rf"^{name} +DBG$", appctl("vlog/list"), re.MULTILINE)
    appctl("vlog/set", "info")
    assert re.search(rf"^{name} +INFO$", appctl("vlog/list"), re.MULTILINE)
    assert "is no level" in appctl.refused("vlog/set", "nosuch:dbg")


def test_the_log_is_rotated(site: Site, appctl: Appctl) -> None:
    """Every process writes to the new file, so that the old one can be compressed."""
    log = site.daemon.directory / "ovs-vswitchd.log"
    log.rename(log.with_suffix(".log.1"))
    appctl("vlog/reopen")
    pids = [site.daemon.pid, site.daemon.supervisor, *map(site.daemon.child, ("penstock.ovsdb", "penstock.engine"))]

    def writes_to(pid: int) -> set[str]:
        return {str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()) for descriptor in (1, 2)}

    eventually("all to write there", lambda: all(writes_to(pid) == {str(log)} for pid in pids))
    site.daemon.try_vsctl("add-port", "br0", "nosuch")
    eventually("something to be said", lambda: "nosuch" in log.read_text())
    site.daemon.vsctl("del-port", "nosuch")


def test_routes_and_neighbours(site: Site, appctl: Appctl) -> None:
    site.daemon.host.assign("br0", "10.7.0.1/24")
    assert "10.7.0.0/24 dev br0 SRC 10.7.0.1" in appctl("ovs/route/show")
    assert appctl("ovs/route/lookup", "10.7.0.9") == "src 10.7.0.1\ngateway 0.0.0.0\ndev br0\n"
    appctl("ovs/route/add", "10.8.0.0/16", "br0", "10.7.0.2")
    assert appctl("ovs/route/lookup", "10.8.1.1") == "src 10.7.0.1\ngateway 10.7.0.2\ndev br0\n"
    appctl("ovs/route/del", "10.8.0.0/16")
    assert "the kernel refuses it" in appctl.refused("ovs/route/lookup", "10.8.1.1")
    assert "there is no device 'br9'" in appctl.refused("ovs/route/add", "10.8.0.0/16", "br9")
    appctl("tnl/neigh/set", "br0", "10.7.0.2", "02:00:00:00:00:02")
    assert re.search(r"^10\.7\.0\.2 +02:00:00:00:00:02 +br0$", appctl("tnl/neigh/show"), re.MULTILINE)
    appctl("tnl/neigh/flush")
    assert "10.7.0.2" not in appctl("tnl/neigh/show")
    tunnel = ("add-port", "br0", "vx1", "--", "set", "interface", "vx1", "type=vxlan", "options:remote_ip=10.7.0.2")
    site.daemon.vsctl(*tunnel)
    assert "vxlan_sys_4789 (4789) ref_cnt=1" in appctl("tnl/ports/show")
    assert re.search(r"vx1 \d+/\d+: \(vxlan: .*remote_ip=10\.7\.0\.2\)", appctl("dpif/show"))
    site.daemon.vsctl("del-port", "vx1")


def test_dummy_ports_receive_what_they_are_told(site: Site, appctl: Appctl) -> None:
    site.daemon.vsctl("add-port", "br0", "dum", "--", "set", "interface", "dum", "type=dummy")
    appctl("netdev-dummy/receive", "dum", ICMP, "in_port=1,dl_src=02:00:00:00:00:77,dl_dst=02:00:00:00:00:78")
    eventually("both to be learned", lambda: "02:00:00:00:00:77" in appctl("fdb/show", "br0"))
    assert "02:00:00:00:00:01" in appctl("fdb/show", "br0")
    assert "no such interface of type dummy" in appctl.refused("netdev-dummy/receive", "one", ICMP)
    assert "neither a packet in hex nor a flow" in appctl.refused("netdev-dummy/receive", "dum", "xyz")
    assert appctl("netdev-dummy/set-admin-state", "dum", "down") == "OK\n"
    assert "PORT_DOWN" in site.daemon.ofctl("show", "br0")
    appctl("netdev-dummy/receive", "dum", "dl_src=02:00:00:00:00:79,dl_dst=02:00:00:00:00:78")
    eventually("it to be dropped", lambda: int(appctl("coverage/read-counter", "drop_not_received")) > 0)
    assert "02:00:00:00:00:79" not in appctl("fdb/show", "br0")
    appctl("netdev-dummy/set-admin-state", "up")
    assert "PORT_DOWN" not in site.daemon.ofctl("show", "br0")
    assert "Invalid Admin State" in appctl.refused("netdev-dummy/set-admin-state", "dum", "left")
    assert "Unknown Dummy Interface" in appctl.refused("netdev-dummy/set-admin-state", "one", "up")
    site.daemon.vsctl("del-port", "dum")


def test_controllers_are_in_the_database(site: Site, appctl: Appctl) -> None:
    """One that nobody is at, then ovs-ofctl, which is waited for, then os-ken, which is called."""
    daemon = site.daemon

    def columns() -> str:
        return " ".join(daemon.vsctl("--columns=is_connected,role,status", "list", "controller").split())

    try:
        daemon.vsctl("set-controller", "br0", "tcp:127.0.0.1:1")
        eventually("its state", lambda: "state=BACKOFF" in columns(), 10)
        assert columns().startswith("is_connected : false role : [] ")
        daemon.vsctl("set-controller", "br0", "ptcp:6655:127.0.0.1")
        eventually("that nobody came", lambda: columns() == "is_connected : false role : [] status : {}", 10)
        monitor = ("ovs-ofctl", "monitor", "tcp:127.0.0.1:6655")
        tool = daemon.host.start(*monitor, env=daemon.database.environment, stderr=subprocess.DEVNULL)
        eventually("the tool to be told of", lambda: columns().startswith("is_connected : true role : other"), 10)
        appctl("bridge/reconnect", "br0")
        assert tool.wait(10) != 0, "its connection was closed"
        daemon.vsctl("set-controller", "br0", "tcp:127.0.0.1:6656")
        environment = {**os.environ, "OPENFLOW": "1.3", "PYTHONPATH": str(ROOT)}
        words = (sys.executable, "-m", "tests.system.controllers.learning_switch", "6656")
        controller = daemon.host.start(*words, env=environment, cwd=ROOT)
        eventually("it to be called", lambda: "is_connected : true" in columns() and "state=ACTIVE" in columns(), 15)
        assert "sec_since_connect=" in columns()
        controller.kill()
        eventually("its loss", lambda: "is_connected : false" in columns(), 10)
    finally:
        daemon.vsctl("del-controller", "br0")


JUNK = (
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"method": "fdb/show", "params": 7, "id": 0}',
    b'{"method": "fdb/show", "params": [[]], "id": 0}',
    b'{"method": ["x"], "params": [], "id": 0}',
    b'{"method": "set-options", "params": ["--nosuch", "x"], "id": 0}',
    b'{"id": 1, "result": 1, "error": null}',
    b'{"method": "fdb/show", "params": ["br0"], "id": 0}' * 50,
)


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_at_its_socket_disturbs_nobody(site: Site, appctl: Appctl, junk: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(site.daemon.directory / f"ovs-vswitchd.{site.daemon.pid}.ctl"))
        control = site.daemon.child("penstock.ovsdb")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have had enough of it
            client.sendall(junk)
        assert appctl("ofproto/list") == "br0\n"
    assert appctl("ofproto/list") == "br0\n"
    assert site.daemon.child("penstock.ovsdb") == control


def test_the_daemon_ends_when_it_is_told(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        pid = daemon.pid
        socket = tmp_path / f"ovs-vswitchd.{pid}.ctl"
        assert socket.is_socket()
        Appctl(daemon)("exit", "--cleanup")
        eventually("the daemon to end", lambda: not Path(f"/proc/{pid}").exists(), 20)
        eventually("its pidfile to be gone", lambda: not (tmp_path / "ovs-vswitchd.pid").exists())
        assert not socket.exists()
    finally:
        daemon.database.end()
        for host in daemon.hosts:
            host.close()


def test_a_control_process_that_is_killed_answers_again(site: Site, appctl: Appctl) -> None:
    os.kill(site.daemon.child("penstock.ovsdb"), signal.SIGKILL)
    eventually("its socket to answer", lambda: appctl.run("ofproto/list").stdout == "br0\n", 20)
