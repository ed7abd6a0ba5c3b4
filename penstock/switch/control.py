"""The control process: holds desired state, keeps the engine at it, and serves the command line.

It owns nothing that forwarding needs and may die at any instant; the next one takes over the running engine unchanged.
The state last accepted is kept in <rundir>/accepted.json: a restarted control process goes on from that, and reads the
configuration file again only when told to (reload), so a file in mid-edit is never picked up by accident.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Protocol

from penstock.engine.client import EngineClient, EngineError, EngineGone
from penstock.ports.spec import PortState
from penstock.switch.captures import Captures
from penstock.switch.engine_link import EngineLink
from penstock.switch.model import DesiredState
from penstock.switch.reconcile import (
    AddBridge,
    AddPort,
    Change,
    Outcome,
    SetBridge,
    SetPort,
    apply,
    broken_ports,
    plan,
    repairs,
)
from penstock.switch.rundir import ACCEPTED, CONTROL_LOCK, take_lock, write_json
from penstock.switch.server import ControlServer
from penstock.switch.settings import EngineSettings

_TICK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Follower(Protocol):
    """What stands above the control process and follows the engine with it. EngineGone may come out of any of these."""

    async def attach(self) -> None:
        """An engine is connected; nothing was changed in it yet."""

    async def bridges(self, desired: DesiredState) -> None:
        """The engine has the bridges that it shall have; ports are added next."""

    async def ports(self, states: Mapping[str, PortState], *, fresh: bool) -> None:
        """The ports as they are now; ``fresh`` after some were added."""

    async def tick(self) -> None:
        """A second has gone by."""

    async def close(self) -> None:
        """The control process ends."""


class Control:
    """One control process. `load` reads the desired state anew from its source; `connect` reaches the engine."""

    def __init__(
        self,
        rundir: Path,
        load: Callable[[], DesiredState],
        connect: Callable[[], EngineClient],
        notify: Callable[[dict[str, Any]], None],
        follow: Callable[[Path, EngineLink], Follower],
        *,
        awaits_source: bool = False,
    ) -> None:
        self.rundir = rundir
        self.load = load
        self.link = EngineLink(connect)
        self.captures = Captures(self.link)
        self.follower = follow(rundir, self.link)
        self.notify = notify
        # Whether what ``load`` gives is nothing yet: until ``source_came`` nobody is told that the switch is ready.
        self._awaits_source = awaits_source
        self.started = time.time()
        self.desired = DesiredState()
        self.states: dict[str, PortState] = {}  # of the ports, when the engine was brought to the desired state
        self.failures: dict[tuple[str, str], str] = {}  # ("port" or "bridge", name) -> why it is not as desired
        self._changing = asyncio.Lock()

    async def run(self, server: ControlServer, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises SourceError at once when there is no state to start from."""
        lock = take_lock(self.rundir / CONTROL_LOCK, "a control process")
        resumed = self._resume()
        if resumed is not None:
            self._awaits_source = False
        self.desired = resumed or self._accept(self.load())
        await server.start()
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._follow_engine()), asyncio.create_task(self._tick())]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in [*tasks, stopped]:
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            await self.follower.close()
            await server.stop()
            self.link.close()
            os.close(lock)

    async def reload(self) -> dict[str, Any]:
        """Read the source again and bring the engine to it. Raises SourceError, and then changes nothing."""
        wanted = await asyncio.to_thread(self.load)
        running = self.desired.engine
        notes = _engine_notes(running, wanted.engine)
        self._accept(replace(wanted, engine=running))
        try:
            outcomes = await self.reconcile()
        except EngineGone:
            error = "the engine is down; the configuration is accepted and will be applied as soon as it is back"
            return {"changes": [], "failures": [{"object": "engine", "name": "", "error": error}], "notes": notes}
        changes = [str(outcome.change) for outcome in outcomes if not outcome.error]
        return {"changes": changes, "failures": self.failure_list(), "notes": notes}

    async def reconcile(self, *, repair: bool = False) -> list[Outcome]:
        """Bring the engine to the desired state; notes and logs what fails. Raises EngineGone."""
        async with self._changing:
            desired = self.desired

            def carry_out(client: EngineClient) -> tuple[list[Outcome], list[Change]]:
                actual = client.ports()
                outcomes = apply(client, repairs(actual, desired)) if repair else []
                changes = plan(client.bridges(), client.ports() if outcomes else actual, desired)
                additions: list[Change] = [change for change in changes if isinstance(change, AddPort)]
                others = [change for change in changes if not isinstance(change, AddPort)]
                return outcomes + apply(client, others), additions

            outcomes, additions = await self.link.call(carry_out)
            await self.follower.bridges(desired)
            outcomes += await self.link.call(lambda client: apply(client, additions))
            self.states = await self.link.call(lambda client: client.ports())
            await self.follower.ports(self.states, fresh=bool(outcomes))
            self._note(outcomes)
            return outcomes

    def failure_list(self) -> list[dict[str, str]]:
        return [{"object": what, "name": name, "error": error} for (what, name), error in self.failures.items()]

    def _note(self, outcomes: list[Outcome]) -> None:
        failures = {}
        for outcome in outcomes:
            what = "bridge" if isinstance(outcome.change, (AddBridge, SetBridge)) else "port"
            key = (what, outcome.change.name)
            if outcome.error:
                failures[key] = outcome.error
                if self.failures.get(key) != outcome.error:
                    _log.warning("cannot %s: %s", outcome.change, outcome.error)
            elif isinstance(outcome.change, (AddPort, SetPort, AddBridge, SetBridge)) and key in self.failures:
                _log.info("%s: done now", outcome.change)
            else:
                _log.info("%s", outcome.change)
        self.failures = failures

    def _resume(self) -> DesiredState | None:
        """The state that the control process before this one had accepted, if there was one."""
        try:
            text = (self.rundir / ACCEPTED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        _log.info("going on with the configuration accepted before the restart")
        return DesiredState.from_json(json.loads(text))

    def _accept(self, desired: DesiredState) -> DesiredState:
        self.desired = desired
        write_json(self.rundir / ACCEPTED, desired.to_json())
        return desired

    async def _follow_engine(self) -> None:
        """Bring each engine that comes up to the desired state, then wait for its end."""
        while True:
            await self.link.open()
            try:
                await self.follower.attach()
                outcomes = await self.reconcile()
                if not self.failures:
                    await self.link.call(lambda client: client.settle())
                await self.captures.take_over()
            except EngineGone:
                _log.warning("the engine went away while it was being configured")
                continue
            made = sum(1 for outcome in outcomes if not outcome.error)
            if outcomes:
                _log.info("configured the engine: %d changes made, %d failed", made, len(self.failures))
            else:
                _log.info("took over a running engine that is as desired: nothing to change")
            self._announce()
            await self.link.wait_lost()
            _log.warning("the engine is gone; waiting for it to come back")

    def source_came(self) -> None:
        """The engine was brought to a state that is really wanted; called by who reads it from elsewhere."""
        if self._awaits_source:
            self._awaits_source = False
            self._announce()

    def _announce(self) -> None:
        if not self._awaits_source:
            failed = [name for what, name in self.failures if what == "port"]
            self.notify({"bridges": len(self.desired.bridges), "ports": len(self.desired.ports), "failed": failed})

    async def _tick(self) -> None:
        """Once a second: age the FDB, retry what failed, make again what broke."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if not self.link.connected:
                continue
            try:
                await self.link.call(lambda client: client.age_fdb())
                actual = await self.link.call(lambda client: client.ports())
                for state in (broken := broken_ports(actual, self.desired)):
                    _log.warning("port %s is broken (%s); making it again", state.spec.name, state.error)
                await self.follower.ports(actual, fresh=False)
                await self.follower.tick()
                if broken or self.failures:
                    await self.reconcile(repair=True)
            except EngineGone:
                _log.debug("the engine went away during a tick")
            except EngineError as error:
                _log.error("the engine refused its upkeep: %s", error)


def _engine_notes(running: EngineSettings, wanted: EngineSettings) -> list[str]:
    before, after = asdict(running), asdict(wanted)
    return [
        f"engine.{item.name} is now {json.dumps(after[item.name])} in the file (was {json.dumps(before[item.name])}): "
        "it takes effect when penstock is started again"
        for item in fields(EngineSettings)
        if before[item.name] != after[item.name]
    ]
