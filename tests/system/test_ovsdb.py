"""penstock-vswitchd under Debian's ovsdb-server, driven by ovs-vsctl and ovs-ofctl."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.demo.echo import ping
from penstock.demo.hosts import Host
from penstock.demo.launch import PENSTOCK
from tests.system.lab import eventually, processes_of, unanswered
from tests.system.ofctl import OF13
from tests.system.vswitchd import Daemon

pytestmark = pytest.mark.needs("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("ovsdb"))
    yield daemon
    daemon.close()


@pytest.fixture
def pair(daemon: Daemon) -> Iterator[tuple[Host, Host]]:
    daemon.vsctl("add-br", "br0")
    hosts = daemon.behind("one", "192.168.0.1/24"), daemon.behind("two", "192.168.0.2/24")
    yield hosts
    daemon.vsctl("del-br", "br0")
    for host in hosts:
        daemon.hosts.remove(host)
        host.close()
    eventually("their links to be gone", lambda: not {"one", "two"} & daemon.host.links().keys(), 10)


def test_ports_are_added_told_of_and_removed(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert ping(one, "192.168.0.2", timeout=3).received == 3
    assert daemon.vsctl("get", "interface", "one", "ofport", "link_state", "error").split() == ["1", "up", "[]"]
    assert daemon.vsctl("get", "interface", "br0", "ofport") == "65534"
    assert daemon.vsctl("get", "open", ".", "ovs_version") != "[]"
    daemon.vsctl("set", "port", "one", "tag=10")
    assert unanswered(one, "192.168.0.2")
    daemon.vsctl("set", "port", "two", "tag=10")
    assert ping(one, "192.168.0.2", timeout=3).received == 3
    daemon.vsctl("del-port", "two")
    assert unanswered(one, "192.168.0.2")
    daemon.vsctl("add-port", "br0", "two", "tag=10", "--", "set", "interface", "two", "ofport_request=7")
    assert daemon.vsctl("get", "interface", "two", "ofport") == "7"
    assert ping(two, "192.168.0.1", timeout=3).received == 3
    eventually("counters", lambda: "rx_packets" in daemon.vsctl("get", "interface", "two", "statistics"))


def test_devices_are_told_of(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    """As the kernel knows them, and the virtual machine and the tunnel that have none."""

    def column(name: str, column: str) -> str:
        return daemon.vsctl("get", "interface", name, column)

    eventually("the driver", lambda: "driver_name=veth" in column("one", "status"))
    assert (column("one", "link_speed"), column("one", "duplex")) == ("10000000000", "full")
    assert "driver_name=tun" in column("br0", "status")
    daemon.host.run("ip", "link", "set", "one", "down")
    eventually("it to be down", lambda: column("one", "admin_state") == "down")
    assert column("one", "link_state") == "down"
    daemon.host.run("ip", "link", "set", "one", "up")
    eventually("it to be up", lambda: column("one", "admin_state") == column("one", "link_state") == "up")
    daemon.host.assign("br0", "192.168.0.9/24")
    vxlan = ("add-port", "br0", "vx", "--", "set", "interface", "vx", "type=vxlan", "options:remote_ip=192.168.0.2")
    guest = ("add-port", "br0", "vm", "--", "set", "interface", "vm", "type=dpdkvhostuser")
    daemon.vsctl(*vxlan, "--", *guest)
    told = "{tunnel_egress_iface=br0, tunnel_egress_iface_carrier=up}"
    eventually("where the tunnel's packets leave", lambda: column("vx", "status") == told, 10)
    assert "status=disconnected" in column("vm", "status")
    daemon.vsctl("del-port", "vx", "--", "del-port", "vm")


def test_capabilities_are_told(daemon: Daemon) -> None:
    make = ("--", "--id=@d", "create", "datapath", 'datapath_version="0"')
    daemon.vsctl("set", "open", ".", "datapaths:netdev=@d", *make)
    assert "tnl_push_pop=true" in daemon.vsctl("list-dp-cap", "netdev")
    assert "ct_state=false" in daemon.vsctl("list-dp-cap", "netdev")
    daemon.vsctl("clear", "open", ".", "datapaths")


def test_flows_by_ovs_ofctl(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    daemon.ofctl(*OF13, "del-flows", "br0")
    assert unanswered(one, "192.168.0.2")
    daemon.ofctl(*OF13, "add-flow", "br0", "in_port=1,actions=output:2")
    daemon.ofctl(*OF13, "add-flow", "br0", "in_port=2,actions=output:1")
    assert ping(one, "192.168.0.2", timeout=3).received == 3
    told = daemon.vsctl("get", "bridge", "br0", "datapath_id").strip('"')
    assert told in daemon.ofctl("show", "br0")


WRONG = (
    ("no1", (), "does not exist"),
    ("no2", ("type=nosuch",), "unknown type 'nosuch'"),
    ("no3", ("type=patch",), "options:peer is missing"),
    ("no4", ("type=vxlan", "options:remote_ip=10.0.0.300"), "options:remote_ip"),
    ("no5", ("type=tap", "--", "set", "port", "no5", "vlan_mode=dot1q-tunnel"), "needs a tag"),
)


@pytest.mark.parametrize(("name", "settings", "text"), WRONG)
def test_wrong_values_are_told_and_disturb_nothing(
    daemon: Daemon, pair: tuple[Host, Host], name: str, settings: tuple[str, ...], text: str
) -> None:
    one, _two = pair
    words = ("--", "set", "interface", name, *settings) if settings else ()
    assert text in daemon.try_vsctl("add-port", "br0", name, *words).stderr
    assert text in daemon.vsctl("get", "interface", name, "error")
    assert daemon.vsctl("get", "interface", name, "ofport") == "-1"
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_flow_tables_have_limits(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    limit = ("--", "--id=@t", "create", "flow_table", "flow_limit=2", "overflow_policy=refuse")
    daemon.vsctl("set", "bridge", "br0", "flow_tables:3=@t", *limit)
    for port in (1, 2):
        daemon.ofctl("add-flow", "br0", f"table=3,in_port={port},actions=drop")
    assert daemon.ofctl.refused("add-flow", "br0", "table=3,in_port=3,actions=drop") == "OFPFMFC_TABLE_FULL"
    daemon.vsctl("set", "bridge", "br0", "flow_tables:254=@t", *limit)
    eventually("what is wrong with it", lambda: "'254' is no flow table" in daemon.log)
    assert daemon.ofctl.refused("add-flow", "br0", "table=3,in_port=3,actions=drop") == "OFPFMFC_TABLE_FULL"
    daemon.vsctl("clear", "bridge", "br0", "flow_tables")
    daemon.ofctl("add-flow", "br0", "table=3,in_port=3,actions=drop")


def test_a_bridge_has_the_address_that_it_is_given(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    daemon.vsctl("set", "bridge", "br0", "other_config:hwaddr=02:00:00:00:00:AB")
    assert daemon.vsctl("get", "interface", "br0", "mac_in_use") == '"02:00:00:00:00:ab"'
    assert daemon.host.mac("br0") == "02:00:00:00:00:ab"
    assert int(daemon.vsctl("get", "interface", "br0", "ifindex")) == daemon.host.index("br0")


def test_a_bridge_that_becomes_secure_forwards_nothing_by_itself(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    assert ping(one, "192.168.0.2", timeout=3).received == 3
    daemon.vsctl("set-fail-mode", "br0", "secure")
    assert unanswered(one, "192.168.0.2")
    daemon.vsctl("del-fail-mode", "br0")
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_what_is_not_built_is_in_the_log(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    daemon.vsctl("set", "interface", "one", "cfm_mpid=5")
    daemon.vsctl("set", "port", "one", "lacp=active")
    assert "interface 'one': cfm_mpid is not built yet" in daemon.log
    assert "port 'one': lacp is not built yet" in daemon.log
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_what_comes_in_is_policed(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    assert ping(one, "192.168.0.2", count=40, timeout=0.3, size=1400).received == 40
    daemon.vsctl("set", "interface", "one", "ingress_policing_rate=10", "ingress_policing_burst=100")
    assert 8 <= ping(one, "192.168.0.2", count=40, timeout=0.05, size=1400).received < 40
    words = [*PENSTOCK, "drops", "one", "--rundir", str(daemon.directory), "--json"]
    told = json.loads(subprocess.run(words, text=True, capture_output=True, check=True, timeout=30).stdout)
    assert "ingress_policed" in {row["reason"] for row in told}
    daemon.vsctl("set", "interface", "one", "ingress_policing_rate=0")
    assert ping(one, "192.168.0.2", count=40, timeout=0.3, size=1400).received == 40


def test_two_patch_ports_that_name_one_peer(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    """The one that the peer names is joined to it; the other says why it is not."""
    one, _two = pair
    ends = (("br0", "first", "peer"), ("br1", "peer", "first"), ("br2", "second", "peer"))
    words: list[str] = ["add-br", "br1", "--", "add-br", "br2"]
    for bridge, name, peer in ends:
        words += ["--", "add-port", bridge, name, "--", "set", "interface", name, "type=patch", f"options:peer={peer}"]
    try:
        daemon.vsctl(*words)
        assert "does not name this port" in daemon.vsctl("get", "interface", "second", "error")
        assert daemon.vsctl("get", "interface", "first", "error") == "[]"
        assert daemon.vsctl("get", "interface", "peer", "link_state") == "up"
        assert ping(one, "192.168.0.2", timeout=3).received == 3
    finally:
        daemon.vsctl("del-br", "br1", "--", "del-br", "br2")


def cpu_seconds(pid: int) -> float:
    """What a process has used, the system's part included."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_database_that_dies_changes_nothing(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    process = one.start("ping", "-c", "400", "-i", "0.01", "-W", "1", "192.168.0.2")
    time.sleep(0.3)
    daemon.database.process.kill()
    daemon.database.process.wait(5)
    before = cpu_seconds(daemon.child("penstock.ovsdb"))
    time.sleep(3)
    assert cpu_seconds(daemon.child("penstock.ovsdb")) - before < 0.5, "it waits for the server without rest"
    daemon.database.start()
    said, _ = process.communicate(timeout=20)
    assert " 0% packet loss" in said, said[-300:]
    daemon.vsctl("--timeout=20", "add-port", "br0", "later", "--", "set", "interface", "later", "type=internal")
    assert daemon.vsctl("get", "interface", "later", "ofport") == "3"
    eventually("what the server forgot", lambda: daemon.vsctl("get", "interface", "one", "link_state") == "up", 15)
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_processes_that_are_killed_come_back(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    """The control process is killed, then the engine: numbers and forwarding are those of before."""
    one, _two = pair
    process = one.start("ping", "-c", "500", "-i", "0.01", "-W", "1", "192.168.0.2")
    time.sleep(0.3)
    os.kill(daemon.child("penstock.ovsdb"), signal.SIGKILL)
    said, _ = process.communicate(timeout=20)
    assert " 0% packet loss" in said, said[-300:]
    for module in ("penstock.ovsdb", "penstock.engine"):
        os.kill(daemon.child(module), signal.SIGKILL)
        eventually("frames to pass", lambda: ping(one, "192.168.0.2", count=1, timeout=0.3).received == 1, 20)
        daemon.vsctl("set", "interface", "one", "external_ids:killed=" + module)
        assert daemon.vsctl("get", "interface", "two", "ofport") == "2"
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_numbers_outlive_the_daemon_and_a_second_one_is_refused(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    daemon.vsctl("del-port", "one", "--", "add-port", "br0", "one")
    assert daemon.vsctl("get", "interface", "one", "ofport") in ("1", "3")
    numbers = [daemon.vsctl("get", "interface", name, "ofport") for name in ("one", "two")]
    pid = daemon.pid
    second = daemon.start()
    assert second.returncode == 1
    assert "already" in second.stderr
    assert daemon.pid == pid
    daemon.stop()
    assert daemon.start().returncode == 0
    daemon.vsctl("set", "interface", "one", "external_ids:again=1")
    assert [daemon.vsctl("get", "interface", name, "ofport") for name in ("one", "two")] == numbers
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_a_daemon_killed_and_started_again_is_not_noticed(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    """With -9, under load: no frame is lost, OpenFlow's flows and numbers stay, tools find the new one."""
    one, _two = pair
    daemon.ofctl("add-flow", "br0", "priority=7,icmp,actions=normal")
    process = one.start("ping", "-c", "400", "-i", "0.01", "-W", "1", "192.168.0.2")
    time.sleep(0.3)
    pid, engine = daemon.pid, daemon.child("penstock.engine")
    os.kill(pid, signal.SIGKILL)
    eventually("its end", lambda: not Path(f"/proc/{pid}").exists())
    daemon.try_vsctl("--no-wait", "set", "interface", "one", "external_ids:meanwhile=1")
    begun = daemon.start()
    assert begun.returncode == 0, begun.stderr
    assert daemon.pid != pid
    daemon.vsctl("add-port", "br0", "later", "--", "set", "interface", "later", "type=internal")
    said, _ = process.communicate(timeout=20)
    assert " 0% packet loss" in said, said[-300:]
    assert daemon.child("penstock.engine") == engine
    assert "priority=7,icmp" in daemon.ofctl("dump-flows", "br0")
    assert [daemon.vsctl("get", "interface", name, "ofport") for name in ("one", "two")] == ["1", "2"]
    environment = daemon.database.environment
    version = subprocess.run(["ovs-appctl", "version"], env=environment, text=True, capture_output=True, timeout=20)
    assert (version.returncode, version.stderr) == (0, "")
    assert daemon.start().returncode == 1
    daemon.stop()
    assert not processes_of(daemon.directory)
    assert daemon.start().returncode == 0  # the fixture ends it


def test_a_daemon_of_other_settings_begins_anew(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    engine = daemon.child("penstock.engine")
    os.kill(daemon.pid, signal.SIGKILL)
    begun = daemon.start(f"unix:{daemon.directory}/../{daemon.directory.name}/db.sock")
    assert begun.returncode == 0, begun.stderr
    assert daemon.child("penstock.engine") != engine
    daemon.vsctl("set", "interface", "one", "external_ids:again=1")
    assert ping(one, "192.168.0.2", timeout=3).received == 3


def test_a_switch_whose_daemon_is_gone_ends_by_itself(tmp_path: Path) -> None:
    """What happens between is tested above; here nobody ever comes."""
    with Host("alone") as host:
        errors, theirs = os.pipe()
        words = ("--rundir", str(tmp_path), "--database", f"unix:{tmp_path}/db.sock", "--identity", "x")
        command = (sys.executable, "-m", "penstock.ovsdb.supervise", *words, "--errors", str(theirs), "--patience", "1")
        process = host.start(*command, pass_fds=(theirs,), stderr=subprocess.DEVNULL)
        assert process.wait(30) == 0
        os.close(theirs)
        with open(errors) as file:
            assert file.read() == ""
        assert not processes_of(tmp_path)
        assert not (tmp_path / "owner.sock").exists()


def test_strangers_at_the_socket_of_a_switch_disturb_nobody(daemon: Daemon, pair: tuple[Host, Host]) -> None:
    one, _two = pair
    for data in (b"", b"{", b"[1]", b"7", b'{"identity": 5}', b"\xff" * 4096):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(5)
            connection.connect(str(daemon.directory / "owner.sock"))
            if data:
                connection.send(data)
                connection.recv(4096)
    assert daemon.start().returncode == 1
    daemon.vsctl("set", "interface", "one", "external_ids:again=2")
    assert ping(one, "192.168.0.2", timeout=3).received == 3
