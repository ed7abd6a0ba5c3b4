"""An engine without packets, for tests of what stands above it: keeps bridges and ports by its rules.

Run as a program it is a control process on such an engine (arguments as for `python -m penstock.switch`). Ports of kind
"packet" on net device "missing" cannot be made while the file <rundir>/missing-netdev does not exist, and all ports
listed in <rundir>/broken-ports have lost their device.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.engine.client import EngineError, EngineGone
from penstock.engine.frames import Captured
from penstock.engine.results import FdbEntry, TraceOutput, TraceResult
from penstock.ports.spec import BridgeSpec, PortSpec, PortState
from penstock.switch.reconcile import LIVE


class FakeEngine:
    """The methods of EngineClient, on dicts."""

    def __init__(self, rundir: Path | None = None) -> None:
        self.rundir = rundir
        self.kept_bridges: dict[str, BridgeSpec] = {}
        self.kept_ports: dict[str, PortSpec] = {}
        self.calls: list[str] = []
        self.captures: dict[str, int] = {}
        self.refused: set[str] = set()
        self.sockets = socket.socketpair()
        self.numbers = 0
        self.region = ""
        self.pipelines: dict[str, int] = {}
        self.packet_in_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self.sockets[0].fileno()

    def close(self) -> None:
        self.sockets[0].close()

    def die(self) -> None:
        self.sockets[1].close()

    def _changes(self, call: str) -> None:
        if self.sockets[1].fileno() < 0:
            raise EngineGone("the engine is gone")
        self.calls.append(call)

    def info(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "started": time.time() - 5,
            "cycles_hz": 10**9,
            "arena_bytes": 1 << 26,
            "page_bytes": 4096,
            "workers": 1,
            "cpus": [0],
            "poll": "adaptive",
            "flow_region": self.region,
        }

    def use_flow_region(self, path: str) -> None:
        assert not self.region
        self.region = path

    def set_pipeline(self, bridge: str, address: int) -> None:
        assert bridge in self.kept_bridges
        self.pipelines[bridge] = address

    def port_configs(self) -> dict[str, int]:
        return {}

    def worker_rows(self) -> list[Any]:
        return []

    def packet_ins(self) -> list[Any]:
        return []

    def ask_to_be_woken(self) -> bool:
        return True

    def packet_outs_written(self) -> int:
        return 0

    def packet_outs_sent(self) -> int:
        return 0

    def bridges(self) -> dict[str, BridgeSpec]:
        return dict(self.kept_bridges)

    def add_bridge(self, spec: BridgeSpec) -> None:
        self._changes(f"add_bridge {spec.name}")
        if spec.name in self.kept_bridges:
            raise EngineError(f"bridge {spec.name} exists already")
        self.kept_bridges[spec.name] = spec

    def set_bridge(self, spec: BridgeSpec) -> None:
        self._changes(f"set_bridge {spec.name}")
        if spec.name not in self.kept_bridges:
            raise EngineError(f"bridge {spec.name} does not exist")
        self.kept_bridges[spec.name] = spec

    def remove_bridge(self, name: str) -> None:
        self._changes(f"remove_bridge {name}")
        if any(port.bridge == name for port in self.kept_ports.values()):
            raise EngineError(f"bridge {name} still has ports")
        del self.kept_bridges[name]

    def ports(self) -> dict[str, PortState]:
        broken = set()
        if self.rundir is not None and (self.rundir / "broken-ports").exists():
            broken = set((self.rundir / "broken-ports").read_text().split())
        return {
            name: PortState(
                spec=spec,
                ofport=1,
                number=index,
                state="error" if name in broken else "up",
                error=f"device {name} is gone" if name in broken else "",
                mac="02:00:00:00:00:01",
                mtu=spec.mtu or 1500,
                netdev=spec.options.get("netdev") or name,
                queues=1,
                offloads=("csum", "tso4"),
            )
            for index, (name, spec) in enumerate(self.kept_ports.items(), 1)
        }

    def add_ports(self, specs: Sequence[PortSpec]) -> list[str]:
        return [self._error(self.add_port, spec) for spec in specs]

    def remove_ports(self, names: Sequence[str]) -> list[str]:
        return [self._error(self.remove_port, name) for name in names]

    @staticmethod
    def _error(change: Callable[[Any], object], what: Any) -> str:
        try:
            change(what)
        except EngineGone:
            raise
        except EngineError as error:
            return str(error)
        return ""

    def add_port(self, spec: PortSpec) -> int:
        self._changes(f"add_port {spec.name}")
        netdev = self._netdev(spec)
        if spec.bridge not in self.kept_bridges:
            raise EngineError(f"port {spec.name}: bridge {spec.bridge} does not exist")
        if spec.name in self.kept_ports:
            raise EngineError(f"port {spec.name} exists already")
        if netdev in {self._netdev(other) for other in self.kept_ports.values()}:
            raise EngineError(f"port {spec.name}: net device {netdev} is in use")
        if netdev in self.refused or self._is_missing(netdev):
            raise EngineError(f"port {spec.name}: net device {netdev} does not exist")
        self.kept_ports[spec.name] = spec
        self.numbers += 1
        if self.rundir is not None:
            (self.rundir / "broken-ports").unlink(missing_ok=True)
        return self.numbers

    def _is_missing(self, netdev: str) -> bool:
        return netdev == "missing" and self.rundir is not None and not (self.rundir / "missing-netdev").exists()

    @staticmethod
    def _netdev(spec: PortSpec) -> str:
        return str(spec.options.get("netdev") or f"own device of {spec.name}")

    def set_port(self, spec: PortSpec) -> None:
        self._changes(f"set_port {spec.name}")
        old = self.kept_ports[spec.name]
        if replace(old, **{each: getattr(spec, each) for each in LIVE}) != spec:
            raise EngineError(f"port {spec.name}: only {', '.join(LIVE)} can change")
        self.kept_ports[spec.name] = spec

    def remove_port(self, name: str) -> None:
        self._changes(f"remove_port {name}")
        del self.kept_ports[name]

    def port_counters(self) -> dict[str, dict[str, int]]:
        keys = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped")
        return {name: dict.fromkeys(keys, 7) for name in self.kept_ports}

    def settle(self) -> None:
        return None

    def driver_stats(self) -> dict[str, dict[str, int]]:
        return {name: {"kernel_dropped": 3} for name in self.kept_ports}

    def tunnels(self) -> list[dict[str, Any]]:
        return []

    def drops(self) -> dict[str, dict[str, int]]:
        return {name: {"mtu_exceeded": 2} for name in list(self.kept_ports)[:1]}

    def fdb(self, bridge: str) -> list[FdbEntry]:
        return [FdbEntry("02:00:00:00:00:02", 10, name, 1.5, False) for name in list(self.kept_ports)[:1]]

    def flush_fdb(self, bridge: str, port: str | None = None) -> int:
        return 1

    def age_fdb(self) -> int:
        return 0

    def worker_stats(self) -> list[dict[str, Any]]:
        now = time.monotonic_ns()
        return [
            {
                "index": 0,
                "cpu": 0,
                "cycles_hz": 10**9,
                "turns": now,
                "busy_turns": now // 4,
                "busy_cycles": now // 2,
                "total_cycles": now,
                "packets": now // 200,
                "bursts": now // 2000,
                "burst_sizes": [0] * 33,
                "turn_cycles": [0] * 12 + [now // 4] + [0] * 51,
                "sleeps": 5,
                "wakeups": 5,
                "stage_cycles": {"rx": now // 8, "parse": now // 8, "forward": now // 8, "tx": now // 8},
                "stage_packets": now // 200,
            }
        ]

    def start_capture(self, port: str, snaplen: int = 262144) -> None:
        if port not in self.kept_ports:
            raise EngineError(f"port {port} does not exist")
        self.captures[port] = snaplen

    def stop_capture(self, port: str) -> None:
        self.captures.pop(port, None)

    def capture_lost(self) -> int:
        return 0

    def read_captured(self) -> list[Captured]:
        now = time.time_ns()
        return [
            Captured(now, port, direction, 100, bytes(range(100)))
            for port in self.captures
            for direction in ("rx", "tx")
        ]

    def trace(self, port: str, frame: bytes, _speller: object = None) -> TraceResult:
        return TraceResult(["came in", "flooded"], {"eth_type": "0x0800"}, [TraceOutput(port, frame)], None)


def main() -> None:
    from penstock.switch.__main__ import main as control_main

    engines: dict[Path, FakeEngine] = {}

    def connect(rundir: Path) -> Any:
        if (rundir / "engine-down").exists():
            raise EngineGone("no engine")
        return engines.setdefault(rundir, FakeEngine(rundir))

    sys.exit(control_main(connect))


if __name__ == "__main__":
    main()
