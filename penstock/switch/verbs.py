"""What the control process does for the command line: one function per verb, all in the tables at the end.

A verb takes the request's arguments and returns what goes to JSON. Arguments are checked here, since anyone who can
open the socket can send anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from penstock.datapath.drops import REASONS
from penstock.engine.client import EngineClient
from penstock.ports.spec import PortState
from penstock.switch.captures import MAX_SNAPLEN
from penstock.switch.control import Control
from penstock.switch.errors import SourceError, unknown
from penstock.switch.server import Connection, Handler, Request, StreamHandler, VerbError
from penstock.switch.status import SupervisorStatus


def verbs(control: Control) -> dict[str, Handler]:
    """Every verb that answers once."""
    service = Verbs(control)
    return {
        "show": service.show,
        "ports": service.ports,
        "fdb": service.fdb,
        "add_fdb": service.add_fdb,
        "flush": service.flush,
        "stats": service.stats,
        "drops": service.drops,
        "tunnels": service.tunnels,
        "sample": service.sample,
        "reload": service.reload,
    }


def streams(control: Control) -> dict[str, StreamHandler]:
    """Every verb that keeps sending until the client has enough."""
    return {"capture": Verbs(control).capture}


class Verbs:
    def __init__(self, control: Control) -> None:
        self.control = control

    async def show(self, _request: Request) -> dict[str, Any]:
        """Bridges with their ports, and the processes."""
        control = self.control
        info = await control.link.call(lambda client: client.info())
        rows = await self._port_rows()
        bridges = [
            {
                **spec.to_json(),
                "error": control.failures.get(("bridge", name), ""),
                "ports": [row for row in rows if row["bridge"] == name],
            }
            for name, spec in control.desired.bridges.items()
        ]
        status = SupervisorStatus.read(control.rundir)
        return {
            "bridges": bridges,
            "engine": info,
            "control": {"pid": os.getpid(), "started": control.started},
            "supervisor": status.to_json() if status else None,
        }

    async def ports(self, _request: Request) -> list[dict[str, Any]]:
        return await self._port_rows()

    async def fdb(self, request: Request) -> list[dict[str, Any]]:
        bridge = self._bridge(request)
        return [asdict(entry) for entry in await self.control.link.call(lambda client: client.fdb(bridge))]

    async def add_fdb(self, request: Request) -> None:
        bridge, port = self._bridge(request), self._port(request)
        vlan, mac, remote = request["vlan"], request["mac"], request.get("remote")
        await self.control.link.call(lambda client: client.add_fdb(bridge, port, vlan, mac, remote))

    async def flush(self, request: Request) -> dict[str, int]:
        bridge = self._bridge(request)
        port = self._port(request) if request.get("port") is not None else None
        return {"flushed": await self.control.link.call(lambda client: client.flush_fdb(bridge, port))}

    async def stats(self, request: Request) -> dict[str, dict[str, int]]:
        """Counters by port, the device's own ("driver.NAME") after the switch's."""

        def read(client: EngineClient) -> dict[str, dict[str, int]]:
            driver = client.driver_stats()
            return {
                name: {**counters, **{f"driver.{key}": value for key, value in driver.get(name, {}).items()}}
                for name, counters in client.port_counters().items()
            }

        return self._of_port(request, await self.control.link.call(read))

    async def drops(self, request: Request) -> list[dict[str, Any]]:
        """What was dropped and why, one row per port and reason."""
        texts = {reason.name: (reason.direction, reason.text) for reason in REASONS}
        found = self._of_port(request, await self.control.link.call(lambda client: client.drops()))
        return [
            {"port": name, "reason": reason, "direction": texts[reason][0], "count": count, "text": texts[reason][1]}
            for name, reasons in found.items()
            for reason, count in reasons.items()
        ]

    async def tunnels(self, request: Request) -> list[dict[str, Any]]:
        """Every far end of a tunnel port, or of all, and how it is reached."""
        port = self._port(request) if request.get("port") is not None else None
        rows = await self.control.link.call(lambda client: client.tunnels())
        return [row for row in rows if port in (None, row["port"])]

    async def sample(self, _request: Request) -> dict[str, Any]:
        """All counters at one instant, for whoever works out rates from two of these."""

        def read(client: EngineClient) -> dict[str, Any]:
            return {
                "time": time.monotonic(),
                "cycles_hz": client.info()["cycles_hz"],
                "ports": client.port_counters(),
                "drops": client.drops(),
                "workers": client.worker_stats(),
            }

        return await self.control.link.call(read)

    async def reload(self, _request: Request) -> dict[str, Any]:
        try:
            return await self.control.reload()
        except SourceError as error:
            raise VerbError(f"the configuration is wrong and nothing was changed:\n{error}") from error

    async def capture(self, request: Request, connection: Connection) -> None:
        port = self._port(request)
        snaplen = request.get("snaplen", MAX_SNAPLEN)
        if not isinstance(snaplen, int) or not 1 <= snaplen <= MAX_SNAPLEN:
            raise VerbError(f"capture: snaplen {snaplen} is wrong: must be 1 to {MAX_SNAPLEN}")
        await self.control.captures.stream(connection, port, snaplen)

    def _bridge(self, request: Request) -> str:
        return _known("bridge", request.get("bridge"), self.control.desired.bridges)

    def _port(self, request: Request) -> str:
        return _known("port", request.get("port"), self.control.desired.ports)

    def _of_port(self, request: Request, found: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        if request.get("port") is None:
            return found
        name = self._port(request)
        return {name: found.get(name, {})}

    async def _port_rows(self) -> list[dict[str, Any]]:
        """A row for each wanted port, whether the engine has it or not."""
        actual = await self.control.link.call(lambda client: client.ports())
        rows = []
        for name, spec in self.control.desired.ports.items():
            error = self.control.failures.get(("port", name), "")
            rows.append({**spec.to_json(), "type": spec.kind, **_live(actual.get(name), error)})
        return rows


def _live(state: PortState | None, failure: str) -> dict[str, Any]:
    """What a port is at present: as the engine has it, or why it is not there."""
    if state is None:
        blank: dict[str, Any] = {"number": None, "mac": "", "mtu": None, "netdev": "", "queues": 0, "offloads": []}
        return {**blank, "state": "error", "error": failure or "is being made"}
    live = state.to_json()
    del live["spec"]
    if failure:
        live["error"] = failure
    return live


def _known(what: str, name: Any, known: Mapping[str, Any]) -> str:
    if isinstance(name, str) and name in known:
        return name
    raise VerbError(unknown(what, str(name), known))
