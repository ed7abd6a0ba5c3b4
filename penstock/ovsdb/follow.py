"""Between database and control process: each change is applied, then told as applied; each second, how things are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.engine.client import EngineError, EngineGone
from penstock.openflow.agent import Agent
from penstock.ovsdb.database import Cell, Database
from penstock.ovsdb.devices import GUEST, Devices, far_end
from penstock.ovsdb.publish import applied, controllers, describe, publish
from penstock.ovsdb.rows import Snapshot
from penstock.ovsdb.translate import Translator, Wanted
from penstock.ports.spec import PortState
from penstock.switch.control import Control
from penstock.switch.model import DesiredState
from penstock.switch.settings import EngineSettings

LOG = logging.getLogger(__name__)
TELL_SECONDS = 1.0
TELL_ALL_SECONDS = 5.0  # what a restarted server has forgotten is written again


class Source:
    """The desired state of the database as it was read last; ``load`` is what the control process calls."""

    def __init__(self, rundir: Path, engine: EngineSettings) -> None:
        self._translator = Translator(rundir, engine)
        self.wanted = Wanted(DesiredState(engine=engine))

    def take(self, snapshot: Snapshot) -> None:
        """Have this snapshot be what is wanted; says what of it cannot be, once."""
        before, self.wanted = self.wanted, self._translator.translate(snapshot)
        for name, text in self.wanted.bridge_errors.items():
            if before.bridge_errors.get(name) != text:
                LOG.warning("bridge %s: %s", name, text)
        for text in sorted({*self.wanted.unbuilt} - {*before.unbuilt}):
            LOG.warning("%s", text)
        for name, text in self.wanted.interface_errors.items():
            if before.interface_errors.get(name) != text:
                LOG.warning("%s", text)

    def load(self) -> DesiredState:
        """What is wanted now."""
        return self.wanted.state


class Follower:
    """Follows a database. The control process's loop alone, but for the database's own thread."""

    def __init__(self, remote: str, source: Source, control: Control) -> None:
        self._source, self._control = source, control
        self._snapshot: Snapshot | None = None
        self._applied: Snapshot | None = None
        self._told: dict[Cell, Any] = {}
        self._all_told = 0.0
        self._changed = asyncio.Event()
        self._has_failed = False
        self._devices = Devices()
        self._asked_of: set[str] = set()  # ports that these were about:
        self._drivers: dict[str, dict[str, int]] = {}
        self._tunnels: list[dict[str, Any]] = []
        self._database = Database(remote, asyncio.get_running_loop(), self._take, self._fail)

    def _take(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._changed.set()

    def _fail(self) -> None:
        self._has_failed = True
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled. Raises RuntimeError when the database cannot be followed any more."""
        self._database.start()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), TELL_SECONDS)
                self._changed.clear()
                if self._has_failed:
                    raise RuntimeError("following the database failed")
                if self._snapshot is not None:
                    await self._turn(self._snapshot)
        finally:
            await asyncio.to_thread(self._database.stop)
            self._devices.close()

    async def _turn(self, snapshot: Snapshot) -> None:
        """Bring the engine to a snapshot, if that is new, and tell how things are."""
        states = None
        try:
            if snapshot != self._applied:
                self._source.take(snapshot)
                result = await self._control.reload()
                if any(failure["object"] == "engine" for failure in result["failures"]):
                    return  # it is applied when the engine is back: then it is told
                self._applied = snapshot
                self._control.source_came()
                states = self._control.states
            self._write(await self._told_of(snapshot, states))
        except EngineGone:
            LOG.debug("the engine went away while the database was told of it")
        except EngineError as error:
            LOG.warning("the database cannot be told of the engine's state: %s", error)

    async def _told_of(self, snapshot: Snapshot, states: Mapping[str, PortState] | None) -> dict[Cell, Any]:
        """All cells; ``states`` are those of the ports, if they were asked for just now."""
        control = self._control
        if states is None:
            states = await control.link.call(lambda client: client.ports())
        counters = await control.link.call(lambda client: client.port_counters())
        failures = {name: error for (what, name), error in control.failures.items() if what == "port"}
        agent = control.follower
        assert isinstance(agent, Agent)
        ids = {name: host.datapath_id for name, host in agent.hosts.items()}
        errors = self._source.wanted.interface_errors | failures
        if states.keys() != self._asked_of or time.monotonic() - self._all_told >= TELL_ALL_SECONDS:
            self._devices.forget()
            await self._ask_of_others(states)
        details = self._devices.details(states, self._drivers, self._tunnels)
        connections = {name: host.describe_connections() for name, host in agent.hosts.items()}
        interfaces = publish(snapshot, states, errors, counters, ids, details)
        return describe(snapshot) | interfaces | controllers(snapshot, connections) | applied(snapshot)

    async def _ask_of_others(self, states: Mapping[str, PortState]) -> None:
        """Ask the engine of what is behind ports that have no device, if there are such. Tunnels may be thousands."""
        call = self._control.link.call
        has_guests = any(state.spec.kind == GUEST for state in states.values())
        self._drivers = await call(lambda client: client.driver_stats()) if has_guests else {}
        has_tunnels = any(far_end(state.spec) for state in states.values())
        self._tunnels = await call(lambda client: client.tunnels()) if has_tunnels else []
        self._asked_of = set(states)

    def _write(self, cells: Mapping[Cell, Any]) -> None:
        """Write what differs from what was written last, and everything now and then."""
        if time.monotonic() - self._all_told >= TELL_ALL_SECONDS:
            self._told, self._all_told = {}, time.monotonic()
        new = {cell: value for cell, value in cells.items() if cell not in self._told or self._told[cell] != value}
        self._told = dict(cells)
        if new:
            self._database.write(new)
