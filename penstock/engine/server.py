"""The engine's message socket: requests that need the engine's own hands (a descriptor, an allocation), one at a time.

A request is {"op": NAME, ...operands}; the reply is {"ok": true, "result": ...} or {"ok": false, "error": text}.
"attach" also sends the descriptors of the arena and of the eventfd that tells of packet-ins. A client that sends
nonsense, or does not read its replies, is disconnected; one that stops in the middle of a request only waits itself.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.engine.addresses import add_fdb, remove_fdb
from penstock.engine.engine import Engine
from penstock.engine.installing import add_ports
from penstock.engine.messages import send_message, socket_path, take_message
from penstock.engine.open_port import EngineFault
from penstock.memory import ArenaError
from penstock.ports.spec import BridgeSpec, PortSpec

LOG = logging.getLogger("penstock.engine")
CHECK_SECONDS = 1.0
CLIENT_SECONDS = 2.0  # a client that does not read a reply is cut off after this
RECEIVE_BYTES = 1 << 16

Operation = Callable[[Engine, dict[str, Any]], Any]

OPERATIONS: dict[str, Operation] = {
    "attach": lambda engine, _request: engine.info(),
    "info": lambda engine, _request: engine.info(),
    "bridges": lambda engine, _request: [spec.to_json() for _number, spec in engine.bridges.values()],
    "add_bridge": lambda engine, request: engine.add_bridge(BridgeSpec.from_json(request["spec"])),
    "set_bridge": lambda engine, request: engine.set_bridge(BridgeSpec.from_json(request["spec"])),
    "remove_bridge": lambda engine, request: engine.remove_bridge(request["name"]),
    "ports": lambda engine, _request: [state.to_json() for state in engine.port_states()],
    "add_ports": lambda engine, request: add_ports(engine, [PortSpec.from_json(spec) for spec in request["specs"]]),
    "set_port": lambda engine, request: engine.set_port(PortSpec.from_json(request["spec"])),
    "remove_ports": lambda engine, request: engine.remove_ports(request["names"]),
    "settle": lambda engine, _request: engine.settle(),
    "driver_stats": lambda engine, _request: engine.driver_stats(),
    "add_fdb": lambda engine, request: add_fdb(
        engine, request["bridge"], request["port"], request["vlan"], request["mac"], request.get("remote")
    ),
    "remove_fdb": lambda engine, request: remove_fdb(engine, request["bridge"], request["vlan"], request["mac"]),
    "inject": lambda engine, request: engine.inject(
        request["name"], [bytes.fromhex(frame) for frame in request["frames"]]
    ),
    "cached_ways": lambda engine, request: engine.cached_ways(request["pipeline"]),
    "rx_queues": lambda engine, _request: engine.rx_queues(),
    "tunnels": lambda engine, _request: engine.underlay.tunnels(),
    "set_capture": lambda engine, request: engine.set_capture(request["name"], request["snaplen"]),
    "set_punt": lambda engine, request: engine.set_punt(request["enabled"]),
    "use_flow_region": lambda engine, request: engine.use_flow_region(request["path"]),
    "set_pipeline": lambda engine, request: engine.set_pipeline(request["bridge"], request["address"]),
    "set_port_config": lambda engine, request: engine.set_port_config(request["name"], request["config"]),
    "kick": lambda engine, _request: engine.workers.kick(),
}


@dataclass
class Client:
    """A connection, and what came of a request that is not whole yet."""

    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)


class Server:
    """Accepts control processes on ``<rundir>/engine.sock``."""

    def __init__(self, engine: Engine, rundir: Path) -> None:
        self._engine = engine
        self._path = socket_path(rundir)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen()
        self._loop = engine.loop
        self._loop.watch(self._listener.fileno(), self._accept)
        self._clients: list[Client] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.watch(self._wake, lambda: None)  # it is written once, and then the loop has ended
        self._stopping = False

    def stop(self) -> None:
        """Have ``serve`` return; callable from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        """Answer requests until ``stop``; look at the ports' devices each second."""
        next_check = time.monotonic() + CHECK_SECONDS
        while not self._stopping:
            self._loop.turn(max(0.0, next_check - time.monotonic()))
            if time.monotonic() >= next_check:
                self._engine.check_ports()
                next_check = time.monotonic() + CHECK_SECONDS
        self._close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(CLIENT_SECONDS)
        client = Client(connection)
        self._clients.append(client)
        self._loop.watch(connection.fileno(), lambda: self._answer(client))

    def _disconnect(self, client: Client) -> None:
        self._loop.unwatch(client.connection.fileno())
        self._clients.remove(client)
        client.connection.close()

    def _close(self) -> None:
        for client in list(self._clients):
            self._disconnect(client)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._loop.unwatch(self._wake)
        os.close(self._wake)
        self._path.unlink(missing_ok=True)

    def _answer(self, client: Client) -> None:
        """Answer the requests that are whole; any failure to talk ends the connection."""
        connection = client.connection
        try:
            part = connection.recv(RECEIVE_BYTES)
            if not part:
                raise ConnectionError("the client closed the message socket")
            client.received += part
            while (request := take_message(client.received)) is not None:
                reply = self._carry_out(request)
                attached = request.get("op") == "attach" and reply["ok"]
                fds = [self._engine.arena.fd, self._engine.workers.packet_in_fd] if attached else None
                send_message(connection, reply, fds)
        except (OSError, ValueError) as error:
            if not isinstance(error, ConnectionError):
                LOG.warning("a client of the message socket was disconnected: %s", error)
            self._disconnect(client)

    def _carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("op")
        operation = OPERATIONS.get(str(name))
        if operation is None:
            return {"ok": False, "error": f"operation '{name}' is unknown; known are: {', '.join(sorted(OPERATIONS))}"}
        try:
            return {"ok": True, "result": operation(self._engine, request)}
        except (EngineFault, ArenaError) as error:
            return {"ok": False, "error": str(error)}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            return {"ok": False, "error": f"operation '{name}' has a missing or wrong operand: {error}"}
