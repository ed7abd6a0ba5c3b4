"""The one class by which the rooms above reach an engine: messages for what needs its hands, else shared memory.

Configuration goes by the message socket. What ``ArenaReader`` offers is read in the arena, and packet-outs are written
there, without the engine's main thread. One client at a time may read captures and packet-ins and write packet-outs;
any number may do the rest. Not thread-safe.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.cached_ways import CachedWay
from penstock.engine.frames import OUT_NORMAL, OUT_PORT, OUT_PROGRAM, Captured, Out, PacketIn, write_packet_out
from penstock.engine.messages import receive_message, send_message, socket_path
from penstock.engine.reader import NO_PORT, ArenaReader, EngineError, EngineGone
from penstock.engine.results import FdbEntry, TraceOutput, TraceResult
from penstock.engine.tracer import Speller, Tracer
from penstock.memory import Arena, ArenaError
from penstock.ports.spec import BridgeSpec, PortSpec, PortState

__all__ = [
    "CachedWay",
    "Captured",
    "EngineClient",
    "EngineError",
    "EngineGone",
    "FdbEntry",
    "PacketIn",
    "Speller",
    "TraceOutput",
    "TraceResult",
]


class EngineClient(ArenaReader):
    """A connection to the engine of a run directory."""

    def __init__(self, connection: socket.socket, arena: Arena, packet_in_fd: int) -> None:
        super().__init__(arena)
        self._socket = connection
        self.packet_in_fd = packet_in_fd  # an eventfd: see ``ask_to_be_woken``
        self._tracer: Tracer | None = None

    @classmethod
    def connect(cls, rundir: Path, timeout: float = 5.0) -> EngineClient:
        """Connect and map the arena. Raises EngineGone when no engine serves this directory."""
        path = socket_path(rundir)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            send_message(connection, {"op": "attach"})
            _reply, fds = receive_message(connection, fd_count=2)
            return cls(connection, Arena.attach(fds[0]), fds[1])
        except (OSError, ValueError, IndexError) as error:
            connection.close()
            raise EngineGone(f"no engine answers at {path}: {error}") from error
        except ArenaError as error:
            connection.close()
            raise EngineError(str(error)) from error

    def fileno(self) -> int:
        """The message socket's descriptor: readable when the engine dies."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the engine and its memory."""
        self._socket.close()
        os.close(self.packet_in_fd)
        self.arena.close()

    def _ask(self, operation: str, **operands: Any) -> Any:
        try:
            send_message(self._socket, {"op": operation, **operands})
            reply, _ = receive_message(self._socket)
        except (OSError, ValueError) as error:
            # A late answer would be taken for that to the next question.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            raise EngineGone(f"the engine does not answer: {error}") from error
        if not reply["ok"]:
            raise EngineError(reply["error"])
        return reply["result"]

    # Configuration, by message

    def info(self) -> dict[str, Any]:
        """pid, started (Unix seconds), cycles_hz, arena_bytes, page_bytes, workers, cpus, poll."""
        return dict(self._ask("info"))

    def bridges(self) -> dict[str, BridgeSpec]:
        """The bridges as they are."""
        return {data["name"]: BridgeSpec.from_json(data) for data in self._ask("bridges")}

    def add_bridge(self, spec: BridgeSpec) -> None:
        """Add an empty bridge."""
        self._ask("add_bridge", spec=spec.to_json())

    def set_bridge(self, spec: BridgeSpec) -> None:
        """Change a bridge's settings."""
        self._ask("set_bridge", spec=spec.to_json())

    def remove_bridge(self, name: str) -> None:
        """Remove a bridge without ports."""
        self._ask("remove_bridge", name=name)

    def ports(self) -> dict[str, PortState]:
        """The ports as they are."""
        states = [PortState.from_json(data) for data in self._ask("ports")]
        return {state.spec.name: state for state in states}

    def add_ports(self, specs: Sequence[PortSpec]) -> list[str]:
        """Open ports: for each what went wrong, or ""."""
        return [str(error) for error in self._ask("add_ports", specs=[spec.to_json() for spec in specs])]

    def set_port(self, spec: PortSpec) -> None:
        """Change a port's VLANs, MTU, policing or protection."""
        self._ask("set_port", spec=spec.to_json())

    def remove_ports(self, names: Sequence[str]) -> list[str]:
        """Close ports: for each what went wrong, or ""."""
        return [str(error) for error in self._ask("remove_ports", names=list(names))]

    def settle(self) -> None:
        """Say that all wanted ports were added: devices kept from an earlier engine and not claimed disappear."""
        self._ask("settle")

    def add_fdb(self, bridge: str, port: str, vlan: int, mac: str, remote: str | None = None) -> None:
        """Add an address that neither ages nor moves, until its port is removed or the engine ends; ``remote`` is the
        far end that it is behind, of a tunnel port.
        """
        self._ask("add_fdb", bridge=bridge, port=port, vlan=vlan, mac=mac, remote=remote)

    def remove_fdb(self, bridge: str, vlan: int, mac: str) -> None:
        """Forget an address, static or not."""
        self._ask("remove_fdb", bridge=bridge, vlan=vlan, mac=mac)

    def inject(self, port: str, frames: Sequence[bytes]) -> None:
        """Have a dummy port receive frames."""
        self._ask("inject", name=port, frames=[frame.hex() for frame in frames])

    def cached_ways(self, pipeline: int) -> tuple[int, list[CachedWay]]:
        """The version of the pipeline at an address of the region, and what the workers' flow caches hold of it."""
        version, ways = self._ask("cached_ways", pipeline=pipeline)
        return int(version), [CachedWay.from_json(each) for each in ways]

    def rx_queues(self) -> dict[int, list[tuple[str, int]]]:
        """By worker, the ports and numbers of the receive queues that it polls."""
        return {worker: [(str(p), int(q)) for p, q in some] for worker, some in enumerate(self._ask("rx_queues"))}

    def driver_stats(self) -> dict[str, dict[str, int]]:
        """Per port, the counters of the device behind it."""
        return dict(self._ask("driver_stats"))

    def tunnels(self) -> list[dict[str, Any]]:
        """Every far end of a tunnel, and how it is reached."""
        return list(self._ask("tunnels"))

    def start_capture(self, port: str, snaplen: int = 262144) -> None:
        """Have copies of the port's frames put where ``read_captured`` finds them."""
        self._ask("set_capture", name=port, snaplen=snaplen)

    def stop_capture(self, port: str) -> None:
        """End a capture."""
        self._ask("set_capture", name=port, snaplen=0)

    def set_punt(self, enabled: bool) -> None:
        """Whether frames for reserved group addresses come as ``packet_ins``."""
        self._ask("set_punt", enabled=enabled)

    def use_flow_region(self, path: str) -> None:
        """Have the engine map the region of flow tables that this path in /proc leads to; once."""
        self._ask("use_flow_region", path=path)

    def set_pipeline(self, bridge: str, address: int) -> None:
        """Have a bridge's frames run through a pipeline of the region; 0: NORMAL forwards them."""
        self._ask("set_pipeline", bridge=bridge, address=address)

    def set_port_config(self, port: str, config: int) -> None:
        """What OpenFlow forbids a port: OFPPC_ bits."""
        self._ask("set_port_config", name=port, config=config)

    # Shared memory

    def run_program(self, frame: bytes, in_port: int, pipeline: int, program: int) -> None:
        """Have a worker run a program of the region for a frame that is said to come in by an engine port (0: none)."""
        if not write_packet_out(int(self._root["packet_out"]), frame, in_port, Out(OUT_PROGRAM, 0, pipeline, program)):
            raise EngineError("packet-out: the ring to the worker is full")
        self._ask("kick")

    def packet_out(self, frame: bytes, in_port: str | None, output: str) -> None:
        """Send a frame out of the port ``output``, or with "NORMAL" as if it had come in by ``in_port``."""
        normal = output == "NORMAL"
        if normal and in_port is None:
            raise EngineError("packet-out to NORMAL needs the port that the frame is said to come in by")
        source = NO_PORT if in_port is None else self._port_number(in_port)
        target = NO_PORT if normal else self._port_number(output)
        how = Out(OUT_NORMAL) if normal else Out(OUT_PORT, target)
        if not write_packet_out(int(self._root["packet_out"]), frame, source, how):
            raise EngineError("packet-out: the ring to the worker is full")
        self._ask("kick")

    def trace(self, port: str, frame: bytes, speller: Speller | None = None) -> TraceResult:
        """What the workers' code would do with ``frame`` if it came in by ``port`` now; nothing is sent or learned."""
        number = self._port_number(port)
        if self._tracer is None:
            ports, bridges, cycles_hz = (int(self._root[name]) for name in ("ports", "bridges", "cycles_hz"))
            self._tracer = Tracer(ports, bridges, cycles_hz, lambda: int(self._workers[0]["arrivals"]))
        punt = bool(self._workers[0]["punt"])
        return self._tracer.trace(number, frame, self._numbers(), punt, speller)
