"""What the control process tells the command line of flow tables: one function per verb."""

from __future__ import annotations

from typing import Any

from penstock.engine.client import Speller
from penstock.openflow.agent import Agent
from penstock.openflow.compose import compose
from penstock.openflow.host import BridgeHost
from penstock.openflow.packet_in import in_port
from penstock.openflow.text_flow import parse_select, show_flow, show_group, show_meter
from penstock.openflow.text_match import TextError, parse_match
from penstock.switch.control import Control
from penstock.switch.errors import unknown
from penstock.switch.server import Handler, Request, VerbError

FRAME_MIN, FRAME_MAX = 14, 65535 + 18


def flow_verbs(control: Control, agent: Agent) -> dict[str, Handler]:
    """Every verb, by name."""
    service = FlowVerbs(control, agent)
    return {
        "flows": service.flows,
        "groups": service.groups,
        "meters": service.meters,
        "cache": service.cache,
        "controllers": service.controllers,
        "trace_flow": service.trace_flow,
        "trace": service.trace,
    }


class FlowVerbs:
    def __init__(self, control: Control, agent: Agent) -> None:
        self.control, self.agent = control, agent

    def _host(self, request: Request) -> BridgeHost:
        name = request.get("bridge")
        host = self.agent.hosts.get(name) if isinstance(name, str) else None
        if host is None:
            raise VerbError(unknown("bridge", str(name), self.agent.hosts))
        return host

    async def flows(self, request: Request) -> list[dict[str, Any]]:
        """Flows of a bridge, those with the highest priority in the lowest table first."""
        host = self._host(request)
        names, numbers = host.port_names()
        try:
            select = parse_select(str(request.get("match") or ""), names)
        except TextError as error:
            raise VerbError(str(error)) from error
        found = [entry for some in host.bridge.flows(select) for entry in some]
        entries = sorted(found, key=lambda each: (each.table, -each.priority))
        return [show_flow(host.bridge, each, numbers) for each in entries]

    async def groups(self, request: Request) -> list[dict[str, Any]]:
        host = self._host(request)
        _, numbers = host.port_names()
        return [show_group(host.bridge, number, numbers) for number in host.bridge.groups.numbers()]

    async def meters(self, request: Request) -> list[dict[str, Any]]:
        host = self._host(request)
        return [show_meter(host.bridge, number) for number in host.bridge.meters.numbers()]

    async def cache(self, _request: Request) -> list[dict[str, int]]:
        """The flow caches, a row for each worker."""
        return await self.control.link.call(lambda client: client.cache_stats())

    async def controllers(self, request: Request) -> list[dict[str, Any]]:
        """Targets and sessions of a bridge."""
        return self._host(request).describe_connections()

    async def trace_flow(self, request: Request) -> dict[str, Any]:
        """Trace a packet that a match describes."""
        name = str(request.get("bridge"))
        port_spec = self.control.desired.ports.get(name)
        if port_spec is not None and name not in self.agent.hosts:  # a bridge's own port may have its name
            why = f"the frame must be hexadecimal digits; to trace a flow give its bridge, {port_spec.bridge}"
            raise VerbError(f"trace: port {port_spec.name}: {why}")
        host = self._host(request)
        names, _ = host.port_names()
        try:
            match = parse_match(str(request.get("flow") or ""), names)
        except TextError as error:
            raise VerbError(f"trace: {error}") from error
        number = in_port(match.key)
        port = host.ports.get(number)
        if port is None:
            have = ", ".join(f"in_port={each}" for each in names) or "none"
            raise VerbError(f"trace: the flow needs the in_port of a port of bridge {host.spec.name}: {have}")
        return await self._trace(port.name, compose(match.key))

    async def trace(self, request: Request) -> dict[str, Any]:
        """Trace a frame."""
        port = request.get("port")
        if not isinstance(port, str) or port not in self.control.desired.ports:
            raise VerbError(unknown("port", str(port), self.control.desired.ports))
        try:
            frame = bytes.fromhex(request.get("frame", ""))
        except (ValueError, TypeError):
            raise VerbError("trace: the frame must be hexadecimal digits, two for each byte") from None
        if not FRAME_MIN <= len(frame) <= FRAME_MAX:
            raise VerbError(f"trace: a frame has {FRAME_MIN} to {FRAME_MAX} bytes, this one {len(frame)}")
        return await self._trace(port, frame)

    async def _trace(self, port: str, frame: bytes) -> dict[str, Any]:
        host = self.agent.hosts.get(self.control.desired.ports[port].bridge)
        speller = None if host is None else Speller(host.spell_flow, host.spell_operation)
        result = await self.control.link.call(lambda client: client.trace(port, frame, speller))
        outputs = [{"port": output.port, "frame": output.frame.hex()} for output in result.outputs]
        return {"steps": result.steps, "fields": result.fields, "outputs": outputs, "drop": result.drop}
