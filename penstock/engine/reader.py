"""What anyone who maps the arena can read there without the engine's help: counters, FDB entries, statistics, frames.

All are views of memory that workers go on writing; each number is read once. The rings of captured frames and
packet-ins have one reader at a time. Expiring FDB entries is a compare-and-swap per entry, and so safe from here.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np

from penstock.datapath.drops import REASONS
from penstock.datapath.fdb import (
    ENTRY,
    FDB,
    FOREVER,
    PORT_MASK,
    REMOTE_MASK,
    REMOTE_SHIFT,
    SECOND_SHIFT,
    SLOTS,
    STATIC,
    fdb_expire,
)
from penstock.datapath.layout import (
    BRIDGE,
    COUNTERS,
    MAX_BRIDGES,
    MAX_PORTS,
    MAX_WORKERS,
    PORT,
    PORT_FREE,
    PROTECTED_PORT,
    STAGES,
    SWITCH,
    TRANSMITTED,
    WORKER,
)
from penstock.datapath.pipeline.layout import CACHE_WAYS, EXEC
from penstock.datapath.tunnel.layout import ADDRESS, ENDPOINT, TUNNEL
from penstock.engine.frames import Captured, PacketIn, read_packet_ins, read_records
from penstock.engine.results import FdbEntry
from penstock.machine import full_fence, load64, monotonic_ns, records
from penstock.memory import RECORD_RING, Arena, record_peek

NO_PORT = -1
COUNTER_NAMES = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")


class EngineError(Exception):
    """The engine refused; the text names object, value and what would be right."""


class EngineGone(EngineError):
    """The engine is not there, died, or does not answer."""


class ArenaReader:
    """The tables of an arena, by name."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        root = records(SWITCH, int(arena.header["root"]))[0]
        self._root = root
        self._ports = records(PORT, int(root["ports"]), MAX_PORTS)
        self._bridges = records(BRIDGE, int(root["bridges"]), MAX_BRIDGES)
        self._workers = records(WORKER, int(root["workers"]), int(root["worker_count"]))

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
            remote = self._remote(value & PORT_MASK, value >> REMOTE_SHIFT & REMOTE_MASK)
            entries.append(FdbEntry(mac, key >> 48, port, age, bool(value & STATIC), remote))
        return sorted(entries, key=lambda entry: (entry.vlan, entry.mac))

    def fdb_stats(self, bridge: str) -> dict[str, int]:
        """limit: entries at most; and how many were learned, seen elsewhere than before (moved), forgotten for their
        age (expired), replaced (evicted) and not learned (refused) for want of room.
        """
        header = records(FDB, int(self._bridge_row(bridge)["fdb"]))[0]
        return {name: int(header[name]) for name in ("limit", "learned", "moved", "expired", "evicted", "refused")}

    def _remote(self, port: int, number: int) -> str:
        """The address of a far end, by its number at a tunnel port; "" for 0."""
        tunnel = int(self._ports[port]["tunnel"])
        if not number or not tunnel:
            return ""
        ends = int(records(TUNNEL, tunnel)[0]["remotes"])
        endpoint = int(load64(ends + 8 * number)) if ends else 0
        if not endpoint:
            return ""
        raw = bytes(records(ENDPOINT, endpoint)[0]["asked"][ADDRESS:])
        return str(ipaddress.ip_address(raw if any(raw[4:]) else raw[:4]))

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
                "turn_cycles": row["turn_cycles"].tolist(),
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

    def port_configs(self) -> dict[str, int]:
        """Per port, what OpenFlow forbids it: the bits that were last given to ``set_port_config``."""
        return {
            name: int(self._ports["of_config"][number]) & ~PROTECTED_PORT for number, name in self._numbers().items()
        }

    def cache_stats(self) -> list[dict[str, int]]:
        """Per worker: packets that went through flow tables, those the flow cache did not know, and its size."""
        rows = [records(EXEC, int(row["exec"]))[0] for row in self._workers]
        return [
            {
                "packets": int(row["packets"]),
                "misses": int(row["misses"]),
                "entries": (int(row["set_mask"]) + 1) * CACHE_WAYS,
            }
            for row in rows
        ]

    def packet_ins(self) -> list[PacketIn]:
        """Frames handed to the control process since the last call, by worker."""
        return [frame for row in self._workers for frame in read_packet_ins(int(row["packet_in"]))]

    def packet_ins_lost(self) -> int:
        """Packet-ins that found no room since the engine started."""
        return sum(int(records(RECORD_RING, int(row["packet_in"]))[0]["lost"]) for row in self._workers)

    def ask_to_be_woken(self) -> bool:
        """Have workers write the eventfd for their next packet-in; False when some wait already."""
        rings = [int(row["packet_in"]) for row in self._workers]
        for ring in rings:
            records(RECORD_RING, ring)[0]["asked"] += 1
        full_fence()
        return not any(record_peek.py_func(ring) for ring in rings)

    def packet_outs_sent(self) -> int:
        """Bytes of packet-outs that the worker has taken from the ring; see ``packet_outs_written``."""
        return int(records(RECORD_RING, int(self._root["packet_out"]))[0]["head"])

    def packet_outs_written(self) -> int:
        """Bytes of packet-outs that were put in the ring."""
        return int(records(RECORD_RING, int(self._root["packet_out"]))[0]["tail"])

    def worker_rows(self) -> Any:
        """The WORKER records, for waiting until each has begun a turn."""
        return self._workers
