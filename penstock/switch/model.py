"""Desired state: everything that the operator wants of the switch, from whatever source (a TOML file today).

Plain values without behaviour; sources make them, `switch.reconcile` brings the engine to them. Only the control
process holds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from penstock.ports.spec import BridgeSpec, PortSpec
from penstock.switch.settings import EngineSettings


@dataclass(frozen=True)
class DesiredState:
    """Bridges and ports by name, in the order in which they were written down."""

    bridges: dict[str, BridgeSpec] = field(default_factory=dict)
    ports: dict[str, PortSpec] = field(default_factory=dict)
    engine: EngineSettings = field(default_factory=EngineSettings)

    def to_json(self) -> dict[str, Any]:
        return {
            "bridges": [bridge.to_json() for bridge in self.bridges.values()],
            "ports": [port.to_json() for port in self.ports.values()],
            "engine": self.engine.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DesiredState:
        bridges = (BridgeSpec.from_json(item) for item in data["bridges"])
        ports = (PortSpec.from_json(item) for item in data["ports"])
        return cls(
            bridges={bridge.name: bridge for bridge in bridges},
            ports={port.name: port for port in ports},
            engine=EngineSettings.from_json(data["engine"]),
        )
