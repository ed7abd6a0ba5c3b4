"""The message socket under bad clients: nonsense, halves, silence, death; others are served all the while."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine
from penstock.engine.messages import LENGTH_MAX, receive_message, send_message, socket_path
from penstock.engine.server import OPERATIONS, Server
from penstock.engine.warm import warm
from tests.engine.support import add_bridge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=80) | st.just("br0") | st.just("a"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
VLAN = st.fixed_dictionaries(
    {"mode": JSON | st.just("trunk"), "tag": JSON, "trunks": st.lists(st.integers(-9, 9999), max_size=3)}
)
PORT = st.fixed_dictionaries(
    {
        "bridge": st.just("br0") | JSON,
        "name": st.text(max_size=90) | JSON,
        "kind": st.sampled_from(("dummy", "patch", "pcap")) | JSON,
        "options": st.just({}) | JSON,
        "vlan": VLAN | JSON,
        "mtu": JSON | st.none(),
    }
)
BRIDGE = st.fixed_dictionaries({"name": JSON, "mac_ageing": JSON, "mac_table_size": st.integers(-5, 1 << 40) | JSON})
REQUESTS = st.fixed_dictionaries(
    {"op": st.sampled_from([*OPERATIONS, "fly"]) | JSON},
    optional={"spec": PORT | BRIDGE | JSON, "name": JSON, "snaplen": JSON, "enabled": JSON},
)


@pytest.fixture(scope="module")
def rundir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    warm(lambda done, total, name: None)
    directory = tmp_path_factory.mktemp("run")
    engine = Engine(workers=1, arena_bytes=128 << 20)
    server = Server(engine, directory)
    add_bridge(engine, "a", "b")
    serving = threading.Thread(target=server.serve)
    serving.start()
    yield directory
    assert serving.is_alive()
    server.stop()
    serving.join()
    engine.stop()


class Client:
    """A connection that asks quickly or fails."""

    def __init__(self, rundir: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(1.0)
        self.socket.connect(str(socket_path(rundir)))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        send_message(self.socket, request)
        return receive_message(self.socket)[0]

    def is_cut_off(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


def assert_served(rundir: Path) -> None:
    with Client(rundir) as other:
        assert other.ask(op="info")["result"]["pid"] == os.getpid()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
def test_strange_requests_get_an_answer(rundir: Path, request_: dict[str, Any]) -> None:
    with Client(rundir) as client:
        reply = client.ask(**request_)
        assert reply["ok"] in (True, False)
        if not reply["ok"]:
            assert reply["error"]
        ports = client.ask(op="ports")["result"]
        for port in ports:
            if port["spec"]["name"] not in ("a", "b"):
                assert client.ask(op="remove_ports", names=[port["spec"]["name"]])["result"] == [""]
        assert {"a", "b"} <= {port["spec"]["name"] for port in ports} or request_["op"] == "remove_ports"
        for name in {"a", "b"} - {port["spec"]["name"] for port in ports}:
            spec = {"bridge": "br0", "name": name, "kind": "dummy", "options": {}, "mtu": None}
            wanted = {**spec, "ofport": None, "vlan": {"mode": "trunk", "tag": None, "trunks": []}}
            assert client.ask(op="add_ports", specs=[wanted])["result"] == [""]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_disturb_nobody(rundir: Path, data: bytes) -> None:
    with Client(rundir) as bad:
        bad.socket.sendall(data)
        assert_served(rundir)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", LENGTH_MAX + 1),
        b"\xff" * 8,
        struct.pack("!I", 4) + b"nope",
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 1) + b"\xff",
        struct.pack("!I", 200_000) + b"[" * 200_000,
    ],
)
def test_what_is_no_message_ends_the_connection(rundir: Path, data: bytes) -> None:
    with Client(rundir) as bad:
        bad.socket.sendall(data)
        assert bad.is_cut_off()
    assert_served(rundir)


def test_half_a_message_stops_nobody_and_is_answered_when_whole(rundir: Path) -> None:
    data = json.dumps({"op": "bridges"}).encode()
    whole = struct.pack("!I", len(data)) + data
    for cut in (1, 3, 4, 5, len(whole) - 1):
        with Client(rundir) as slow:
            slow.socket.sendall(whole[:cut])
            started = time.monotonic()
            assert_served(rundir)
            assert time.monotonic() - started < 0.5
            slow.socket.sendall(whole[cut:] + whole)
            for _ in range(2):
                assert receive_message(slow.socket)[0]["result"][0]["name"] == "br0"


def test_a_client_that_reads_no_replies_is_cut_off(rundir: Path) -> None:
    with Client(rundir) as deaf:
        data = json.dumps({"op": "ports"}).encode()
        deaf.socket.setblocking(False)
        try:
            for _ in range(20000):
                deaf.socket.send(struct.pack("!I", len(data)) + data)
        except BlockingIOError:
            pass
        with Client(rundir) as other:
            other.socket.settimeout(8)
            assert other.ask(op="info")["ok"]


def test_an_unknown_operation_and_missing_operands_are_named(rundir: Path) -> None:
    with Client(rundir) as client:
        assert client.ask(op="fly")["error"].startswith("operation 'fly' is unknown; known are: add_bridge")
        assert "'specs'" in client.ask(op="add_ports")["error"]
        assert client.ask(op="remove_ports", names=["c"])["result"] == ["no port 'c'; there are: a, b"]


SESSION = """
import os, signal, sys
from pathlib import Path
from penstock.engine.client import EngineClient, EngineError
from penstock.ports.spec import BridgeSpec, PortSpec

client = EngineClient.connect(Path(sys.argv[1]))
client.add_bridge(BridgeSpec("far"))
assert client.add_ports([PortSpec("far", "x", "dummy", {})]) == [""]
state = client.ports()["x"]
assert (state.state, state.queues) == ("up", 1)
assert client.port_counters()["x"] == dict.fromkeys(client.port_counters()["x"], 0)
assert client.fdb("far") == [] and client.drops() == {}
assert client.worker_stats()[0]["index"] == 0
try:
    client.remove_bridge("far")
except EngineError as error:
    assert str(error) == "bridge 'far' still has ports: x; remove them first", error
else:
    raise AssertionError
result = client.trace("x", bytes.fromhex("020000000001020000000002") + bytes(50))
assert result.drop == "no_destination"
assert client.remove_ports(["x"]) == [""]
client.remove_bridge("far")
client._socket.sendall(b"\\x00\\x00\\x00\\x10{")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_client_in_another_process_that_dies_in_the_middle_of_a_request(rundir: Path) -> None:
    session = subprocess.run([sys.executable, "-c", SESSION, str(rundir)], capture_output=True, text=True, timeout=60)
    assert session.returncode == -signal.SIGKILL, session.stderr
    assert_served(rundir)
    with Client(rundir) as client:
        assert [bridge["name"] for bridge in client.ask(op="bridges")["result"] if bridge["name"] == "far"] == []
