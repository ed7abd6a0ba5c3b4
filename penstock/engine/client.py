"""The one class by which the rooms above reach an engine: messages for what needs its hands, shared memory for the
rest.

Configuration goes by the message socket. Counters, FDB entries, statistics, captures and packet-ins are read in the
arena, and packet-outs written there, without the engine's main thread. One client at a time may read captures and
packet-ins and write packet-outs; any number may do the rest. Not thread-safe.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from penstock.datapath.drops import REASONS
from penstock.datapath.fdb import FDB, PORT_MASK, SECOND_SHIFT, SLOTS, STATIC, fdb_expire
from penstock.datapath.layout import (
    BRIDGE,
    COUNTERS,
    MAX_BRIDGES,
    MAX_PORTS,
    MAX_WORKERS,
    PORT,
    PORT_FREE,
    STAGES,
    SWITCH,
    TRANSMITTED,
    WORKER,
)
from penstock.engine.frames import Captured, PacketIn, read_records, write_packet_out
from penstock.engine.messages import receive_message, send_message, socket_path
from penstock.engine.results import FdbEntry, TraceResult
from penstock.engine.tracer import Tracer
from penstock.machine import monotonic_ns, records
from penstock.memory import RECORD_RING, Arena, ArenaError
from penstock.ports.spec import BridgeSpec, PortSpec, PortState

NO_PORT = -1
FOREVER = 1 << 31
COUNTER_NAMES = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
ENTRY = np.dtype([("key", "u8"), ("value", "u8")])


class EngineError(Exception):
    """The engine refused; the text names object, value and what would be right."""


class EngineGone(EngineError):
    """The engine is not there, died, or does not answer."""


class EngineClient:
    """A connection to the engine of a run directory."""

    def __init__(self, connection: socket.socket, arena: Arena) -> None:
        self._socket = connection
        self.arena = arena
        root = records(SWITCH, int(arena.header["root"]))[0]
        self._root = root
        self._ports = records(PORT, int(root["ports"]), MAX_PORTS)
        self._bridges = records(BRIDGE, int(root["bridges"]), MAX_BRIDGES)
        self._workers = records(WORKER, int(root["workers"]), int(root["worker_count"]))
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
            _reply, fds = receive_message(connection, fd_count=1)
            return cls(connection, Arena.attach(fds[0]))
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

    def add_port(self, spec: PortSpec) -> int:
        """Open a port; its number."""
        return int(self._ask("add_port", spec=spec.to_json()))

    def set_port(self, spec: PortSpec) -> None:
        """Change a port's VLANs or MTU."""
        self._ask("set_port", spec=spec.to_json())

    def remove_port(self, name: str) -> None:
        """Close a port."""
        self._ask("remove_port", name=name)

    def settle(self) -> None:
        """Say that all wanted ports were added: devices kept from an earlier engine and not claimed disappear."""
        self._ask("settle")

    def driver_stats(self) -> dict[str, dict[str, int]]:
        """Per port, the counters of the device behind it."""
        return dict(self._ask("driver_stats"))

    def start_capture(self, port: str, snaplen: int = 262144) -> None:
        """Have copies of the port's frames put where ``read_captured`` finds them."""
        self._ask("set_capture", name=port, snaplen=snaplen)

    def stop_capture(self, port: str) -> None:
        """End a capture."""
        self._ask("set_capture", name=port, snaplen=0)

    def set_punt(self, enabled: bool) -> None:
        """Whether frames for reserved group addresses come as ``packet_ins``."""
        self._ask("set_punt", enabled=enabled)

    # Shared memory

    def _numbers(self) -> dict[int, str]:
        """Port numbers in use and their names."""
        used = np.flatnonzero(self._ports["state"] != PORT_FREE)
        return {int(number): self._ports["name"][number].decode() for number in used}

    def _bridge_row(self, bridge: str) -> Any:
        for row in self._bridges:
            if row["state"] and row["name"] == bridge.encode():
                return row
        raise EngineError(f"no bridge '{bridge}'")

    def _port_number(self, port: str) -> int:
        for number, name in self._numbers().items():
            if name == port:
                return number
        raise EngineError(f"no port '{port}'; there are: {', '.join(self._numbers().values()) or 'none'}")

    def _counters(self, number: int) -> Any:
        address = int(self._ports["counters"][number])
        if not address:
            # The engine removed the port since its number was read.
            return np.zeros(MAX_WORKERS, dtype=COUNTERS)
        return records(COUNTERS, address, MAX_WORKERS)

    def port_counters(self) -> dict[str, dict[str, int]]:
        """Per port: packets and bytes each way, and drops by direction (the sums of ``drops``)."""
        result = {}
        for number, name in self._numbers().items():
            rows = self._counters(number)
            row = {column: int(rows[column].sum()) for column in COUNTER_NAMES}
            dropped = rows["drops"].sum(axis=0)
            for direction in ("rx", "tx"):
                row[f"{direction}_dropped"] = sum(
                    int(dropped[index]) for index, reason in enumerate(REASONS) if reason.direction == direction
                )
            result[name] = row
        return result

    def drops(self) -> dict[str, dict[str, int]]:
        """Per port and reason, the frames dropped; zeros left out."""
        result = {}
        for number, name in self._numbers().items():
            dropped = self._counters(number)["drops"].sum(axis=0)
            found = {reason.name: int(dropped[index]) for index, reason in enumerate(REASONS) if dropped[index]}
            if found:
                result[name] = found
        return result

    def fdb(self, bridge: str) -> list[FdbEntry]:
        """The bridge's learned and static addresses."""
        header = records(FDB, int(self._bridge_row(bridge)["fdb"]))[0]
        table = records(ENTRY, int(header["buckets"]), (int(header["mask"]) + 1) * SLOTS).copy()
        names = self._numbers()
        now = monotonic_ns() / 1e9
        entries = []
        for key, value in table[table["value"] != 0].tolist():
            mac = key.to_bytes(8, "little")[:6].hex(":")
            port = names.get(value & PORT_MASK, "")
            age = max(0.0, now - (value >> SECOND_SHIFT))
            entries.append(FdbEntry(mac, key >> 48, port, age, bool(value & STATIC)))
        return sorted(entries, key=lambda entry: (entry.vlan, entry.mac))

    def add_fdb(self, bridge: str, port: str, vlan: int, mac: str) -> None:
        """Add an address that neither ages nor moves, until its port is removed or the engine ends."""
        self._ask("add_fdb", bridge=bridge, port=port, vlan=vlan, mac=mac)

    def flush_fdb(self, bridge: str, port: str | None = None) -> int:
        """Forget learned addresses, of one port or all; how many."""
        number = NO_PORT if port is None else self._port_number(port)
        return fdb_expire(int(self._bridge_row(bridge)["fdb"]), FOREVER, number, STATIC)

    def age_fdb(self) -> int:
        """Forget addresses not seen for their bridge's ageing time; how many. To be called about once a second."""
        now = int(monotonic_ns()) // 1_000_000_000
        return sum(
            fdb_expire(int(row["fdb"]), now - int(row["ageing"]), NO_PORT, STATIC)
            for row in self._bridges[self._bridges["state"] != 0]
            if row["ageing"]
        )

    def worker_stats(self) -> list[dict[str, Any]]:
        """Per worker: turns, busy turns and cycles, packets, bursts and their sizes, sleeps, cycles per stage."""
        hz = int(self._root["cycles_hz"])
        return [
            {
                "index": int(row["index"]),
                "cpu": int(row["cpu"]) if row["cpu"] >= 0 else None,
                "cycles_hz": hz,
                "turns": int(row["turns"]),
                "busy_turns": int(row["busy_turns"]),
                "busy_cycles": int(row["busy_cycles"]),
                "total_cycles": int(row["last_cycles"] - row["started"]),
                "packets": int(row["packets_total"]),
                "bursts": int(row["bursts"]),
                "burst_sizes": row["burst_sizes"].tolist(),
                "sleeps": int(row["sleeps"]),
                "stage_cycles": dict(zip(STAGES, row["stage_cycles"].tolist(), strict=True)),
                "stage_packets": int(row["staged_packets"]),
                "learned": int(row["learned"]),
                "moved": int(row["moved"]),
            }
            for row in self._workers
        ]

    def read_captured(self) -> list[Captured]:
        """Frames captured since the last call, in order of time."""
        names = self._numbers()
        found = [frame for row in self._workers for frame in read_records(int(row["captures"]))]
        return sorted(
            (
                Captured(
                    f.time_ns, names.get(f.port, ""), "tx" if f.kind == TRANSMITTED else "rx", f.wire_length, f.data
                )
                for f in found
            ),
            key=lambda captured: captured.time_ns,
        )

    def capture_lost(self) -> int:
        """Frames not captured because they were not read in time, since the engine started."""
        return sum(int(records(RECORD_RING, int(row["captures"]))[0]["lost"]) for row in self._workers)

    def packet_ins(self) -> list[PacketIn]:
        """Frames handed to the control process since the last call."""
        names = self._numbers()
        found = [frame for row in self._workers for frame in read_records(int(row["packet_in"]))]
        return [PacketIn(f.time_ns, names.get(f.port, ""), f.wire_length, f.data) for f in found]

    def packet_out(self, frame: bytes, in_port: str | None, output: str) -> None:
        """Send a frame out of the port ``output``, or with "NORMAL" as if it had come in by ``in_port``."""
        normal = output == "NORMAL"
        if normal and in_port is None:
            raise EngineError("packet-out to NORMAL needs the port that the frame is said to come in by")
        source = NO_PORT if in_port is None else self._port_number(in_port)
        target = NO_PORT if normal else self._port_number(output)
        if not write_packet_out(int(self._root["packet_out"]), frame, source, target):
            raise EngineError("packet-out: the ring to the worker is full")
        self._ask("kick")

    def trace(self, port: str, frame: bytes) -> TraceResult:
        """What the workers' code would do with ``frame`` if it came in by ``port`` now; nothing is sent or learned."""
        number = self._port_number(port)
        if self._tracer is None:
            self._tracer = Tracer(int(self._root["ports"]), int(self._root["bridges"]), int(self._root["cycles_hz"]))
        punt = bool(self._workers[0]["punt"])
        return self._tracer.trace(number, frame, self._numbers(), punt)
