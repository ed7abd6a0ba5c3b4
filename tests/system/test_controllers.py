"""Bridges under real controllers: a learning switch on os-ken, fail modes, roles, TLS, barriers."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from penstock.openflow.match import encode_13
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.wire import OF13, Raw, Stream, Type, message
from tests.system.frames import Wire, frame
from tests.system.lab import Lab, eventually
from tests.system.ofctl import Ofctl

pytest.importorskip("os_ken", reason="os-ken is not installed")

ROOT = Path(__file__).parents[2]
NAMES = ("one", "two", "three")
PORTS = "\n".join(
    f'[bridge.br0.port.{name}]\ntype = "packet"\nnetdev = "{name}"\nofport = {number}'
    for number, name in enumerate(NAMES, 1)
)
ADDRESSES = {name: f"10.0.0.{number}/24" for number, name in enumerate(NAMES, 1)}
BARRIERS = int(os.environ.get("PENSTOCK_BARRIERS", "1000"))


def bridge(**settings: str) -> str:
    return "[bridge.br0]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()) + PORTS


@contextmanager
def laboratory(directory: Path, config: str) -> Iterator[Lab]:
    with Lab(directory) as lab:
        for name in NAMES:
            lab.veth(name, ADDRESSES[name])
        lab.start(config)
        yield lab


def start_controller(lab: Lab, version: str, port: int = 6653) -> subprocess.Popen[str]:
    environment = {**os.environ, "OPENFLOW": version, "PYTHONPATH": str(ROOT)}
    module = "tests.system.controllers.learning_switch"
    return lab.site.start(sys.executable, "-m", module, str(port), env=environment, cwd=ROOT)


def reaches(lab: Lab, source: str, target: str, count: int = 1) -> bool:
    address = ADDRESSES[target].partition("/")[0]
    return lab.hosts[source].run("ping", "-c", str(count), "-i", "0.2", "-W", "1", address, check=False).returncode == 0


def states(lab: Lab) -> list[str]:
    return [row["state"] for row in lab.switch.query("controllers", "br0")]


@pytest.mark.parametrize("version", ["1.0", "1.3"])
def test_a_learning_switch_on_os_ken(tmp_path: Path, version: str) -> None:
    config = bridge(controllers='["tcp:127.0.0.1"]', fail_mode='"secure"', max_backoff="1", inactivity_probe="1")
    with laboratory(tmp_path, config) as lab:
        assert not reaches(lab, "one", "two")
        controller = start_controller(lab, version)
        eventually("the controller is connected", lambda: "session" in states(lab), 15)
        eventually("hosts reach each other", lambda: reaches(lab, "one", "two"), 15)
        assert reaches(lab, "one", "three", 5)
        assert reaches(lab, "three", "two", 5)
        ofctl = Ofctl(lab.switch.rundir)
        learned = [flow for flow in ofctl.flows("br0") if "priority=1," in flow]
        assert len(learned) >= 6
        controller.kill()
        controller.wait()
        eventually("the loss is noticed", lambda: states(lab) == ["disconnected"], 10)
        assert reaches(lab, "one", "two", 5), "flows outlive the controller"
        there = ofctl.flows("br0")
        lab.switch.await_return("control", lab.switch.kill("control"))
        eventually("the control process answers", lambda: ofctl.run("show", "br0").returncode == 0, 15)
        assert ofctl.flows("br0") == there, "and the control process"
        assert reaches(lab, "one", "two", 5)
        start_controller(lab, version)
        eventually("it is connected again", lambda: "session" in states(lab), 15)


def test_a_standalone_bridge_goes_on_alone_and_comes_back(tmp_path: Path) -> None:
    config = bridge(controllers='["tcp:127.0.0.1"]', max_backoff="1", inactivity_probe="1")
    with laboratory(tmp_path, config) as lab:
        assert not reaches(lab, "one", "two")
        eventually("NORMAL forwards", lambda: reaches(lab, "one", "two"), 15)
        lab.switch.await_return("control", lab.switch.kill("control"))
        assert reaches(lab, "one", "two", 10), "a control process that is new to it does not begin to wait again"
        start_controller(lab, "1.3")
        eventually("the controller is connected", lambda: "session" in states(lab), 15)
        ofctl = Ofctl(lab.switch.rundir)
        eventually("its flow is there", lambda: any("CONTROLLER" in flow for flow in ofctl.flows("br0")))
        eventually("hosts reach each other through it", lambda: reaches(lab, "one", "two"), 15)
        assert ofctl.counted("br0", "table=0")[0] > 0


def test_tools_that_are_waited_for_leave_a_bridge_to_itself(tmp_path: Path) -> None:
    """With nobody to connect to there is no loss to be noticed: what a tool says holds."""
    config = bridge(controllers='["ptcp:6655:127.0.0.1"]', inactivity_probe="1")
    with laboratory(tmp_path, config) as lab:
        assert reaches(lab, "one", "two")
        lab.site.run("ovs-ofctl", "add-flow", "tcp:127.0.0.1:6655", "priority=9,icmp,actions=drop")
        time.sleep(4)  # longer than three probes
        assert not reaches(lab, "one", "two")


def make_keys(directory: Path) -> None:
    """A certificate authority, a key and a certificate of its for switch and controller, and one that nobody signed."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    for name in ("switch", "controller"):
        key, request, certificate = f"{name}.key", f"{name}.csr", f"{name}.pem"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=x"
    )


def test_tls_in_both_directions(tmp_path: Path) -> None:
    make_keys(tmp_path)
    files = {"private_key": "switch.key", "certificate": "switch.pem", "ca_cert": "ca.pem"}
    keys = {key: f'"{tmp_path}/{name}"' for key, name in files.items()}
    config = bridge(controllers='["pssl:6654:127.0.0.1", "ptcp:6655"]', fail_mode='"secure"', **keys)
    with laboratory(tmp_path, config) as lab:
        ofctl = ["ovs-ofctl", "-O", "OpenFlow13", "show"]
        tls = ["-p", f"{tmp_path}/controller.key", "-c", f"{tmp_path}/controller.pem", "-C", f"{tmp_path}/ca.pem"]
        assert "n_tables:254" in lab.site.run(*ofctl, *tls, "ssl:127.0.0.1:6654").stdout
        assert "n_tables:254" in lab.site.run(*ofctl, "tcp:127.0.0.1:6655").stdout
        # A client whose certificate nobody signed is refused, and the switch goes on.
        other = ["-p", f"{tmp_path}/other.key", "-c", f"{tmp_path}/other.pem", "-C", f"{tmp_path}/ca.pem"]
        assert lab.site.run(*ofctl, *other, "ssl:127.0.0.1:6654", check=False, timeout=40).returncode != 0
        assert "n_tables:254" in lab.site.run(*ofctl, *tls, "ssl:127.0.0.1:6654").stdout


class Client:
    """A controller of the test's own, on one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(5)
        self._stream = Stream()
        self._waiting: list[Raw] = []
        self.send(message(OF13, Type.HELLO, 0))
        assert self.receive().number == Type.HELLO

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Raw:
        while not self._waiting:
            self._waiting = self._stream.feed(self._socket.recv(65536))
        return self._waiting.pop(0)

    def ask(self, data: bytes) -> Raw:
        self.send(data)
        return self.receive()

    def gather(self, seconds: float) -> list[Raw]:
        """What comes until nothing came for so long; the other side's end of the connection ends it too."""
        found, self._waiting = self._waiting, []
        self._socket.settimeout(seconds)
        try:
            while data := self._socket.recv(65536):
                found += self._stream.feed(data)
        except TimeoutError:
            pass
        self._socket.settimeout(5)
        return found

    def is_closed(self) -> bool:
        """Whether the other side has ended the connection; what it had sent is thrown away."""
        try:
            while self._socket.recv(65536):
                continue
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


def manage(rundir: Path) -> Client:
    """On the management socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(rundir / "br0.mgmt"))
    return Client(connection)


def flow_mod(text: str) -> bytes:
    mod = parse_flow(text, {})
    head = struct.pack("!QQBBHHHIIIH2x", 0, 0, mod.table, 0, 0, 0, mod.priority, 0xFFFFFFFF, 0, 0, 0)
    return message(OF13, Type.FLOW_MOD, 1, head + encode_13(mod.match) + mod.instructions)


def test_a_packet_after_a_barrier_meets_the_new_flows(tmp_path: Path) -> None:
    """Whatever is sent once the reply to a barrier is here goes by what was changed before it."""
    with laboratory(tmp_path, bridge(fail_mode='"secure"')) as lab, ExitStack() as stack:
        wires = {name: stack.enter_context(Wire(lab.hosts[name])) for name in NAMES}
        client = manage(lab.switch.rundir)
        stack.callback(client.close)
        mods = {
            name: flow_mod(f"in_port=1,dl_type=0x88b5,actions=output:{number}")
            for number, name in ((2, "two"), (3, "three"))
        }
        barrier = message(OF13, Type.BARRIER_REQUEST, 2)
        data = frame("02:00:00:00:00:01", "02:00:00:00:00:02", b"now")
        wrong = lost = 0
        for turn in range(BARRIERS):
            right, other = ("two", "three") if turn % 2 else ("three", "two")
            assert client.ask(mods[right] + barrier).number == Type.BARRIER_REPLY
            wires["one"].send(data)
            deadline = time.monotonic() + 2
            while not (got := wires[right].received(0.002)) and time.monotonic() < deadline:
                continue
            lost += not got
            wrong += len(wires[other].received(0.0001))
        assert (wrong, lost) == (0, 0)


def role(number: int, generation: int) -> bytes:
    return message(OF13, Type.ROLE_REQUEST, 3, struct.pack("!I4xQ", number, generation))


def test_roles(tmp_path: Path) -> None:
    with laboratory(tmp_path, bridge(fail_mode='"secure"')) as lab, ExitStack() as stack:
        clients = [manage(lab.switch.rundir) for _ in range(2)]
        for client in clients:
            stack.callback(client.close)
        assert clients[0].ask(role(2, 5)).number == Type.ROLE_REPLY
        assert clients[1].ask(role(2, 6)).number == Type.ROLE_REPLY
        refused = clients[0].ask(flow_mod("actions=drop"))
        assert (refused.number, struct.unpack_from("!HH", refused.body)) == (Type.ERROR, (1, 10)), "a slave now"
        stale = clients[0].ask(role(2, 5))
        assert (stale.number, struct.unpack_from("!HH", stale.body)) == (Type.ERROR, (11, 0))
        assert clients[0].ask(role(1, 0)).number == Type.ROLE_REPLY
        clients[0].send(flow_mod("actions=drop"))
        assert clients[0].ask(message(OF13, Type.BARRIER_REQUEST, 4)).number == Type.BARRIER_REPLY


def auxiliary_id(client: Client) -> int:
    reply = client.ask(message(OF13, Type.FEATURES_REQUEST, 5))
    assert reply.number == Type.FEATURES_REPLY
    return int(struct.unpack_from("!QIBB", reply.body)[3])


def test_auxiliary_connections_carry_packets(tmp_path: Path) -> None:
    config = bridge(controllers='["tcp:127.0.0.1"]', fail_mode='"secure"', auxiliary_connections="2", max_backoff="1")
    with Lab(tmp_path) as lab, ExitStack() as stack:
        for name in NAMES:
            lab.veth(name, ADDRESSES[name])
        with lab.site.entered():
            server = stack.enter_context(socket.create_server(("127.0.0.1", 6653)))
        server.settimeout(15)
        lab.start(config)

        def accept() -> Client:
            client = Client(server.accept()[0])
            stack.callback(client.close)
            return client

        main = accept()
        assert auxiliary_id(main) == 0
        others = [accept(), accept()]
        assert sorted(map(auxiliary_id, others)) == [1, 2]
        main.send(flow_mod("dl_type=0x88b5,actions=CONTROLLER"))
        assert main.ask(message(OF13, Type.BARRIER_REQUEST, 6)).number == Type.BARRIER_REPLY
        wires = {name: stack.enter_context(Wire(lab.hosts[name])) for name in NAMES}
        for name in NAMES:
            for host in range(8):
                for _ in range(3):
                    wires[name].send(frame(f"02:00:00:00:01:{host:02x}", "02:00:00:00:00:02", name.encode()))
        sent = {(name.encode(), host) for name in NAMES for host in range(8)}
        by: dict[tuple[bytes, int], list[int]] = {}
        for index, client in enumerate((main, *others)):
            for raw in client.gather(0.5):
                if raw.number == Type.PACKET_IN:
                    flow = raw.data[-46:].split(b"\0")[0], raw.data[-60 + 11]
                    by.setdefault(flow, []).append(index)
        assert set(by) == sent
        assert all(len(each) == 3 and len(set(each)) == 1 for each in by.values()), "a flow's packets keep together"
        assert {each[0] for each in by.values()} == {1, 2}
        # One role for all: what the main connection may not, they may not.
        assert others[0].ask(message(OF13, Type.BARRIER_REQUEST, 7)).xid == 7
        assert main.ask(role(3, 1)).number == Type.ROLE_REPLY
        refused = others[1].ask(flow_mod("actions=drop"))
        assert (refused.number, struct.unpack_from("!HH", refused.body)) == (Type.ERROR, (1, 10))
        # One that is lost comes back, and all end with the main connection.
        others.pop(0).close()
        back = accept()
        assert auxiliary_id(back) in (1, 2)
        main.close()
        assert back.is_closed()
        assert others[0].is_closed()
        assert auxiliary_id(accept()) == 0
