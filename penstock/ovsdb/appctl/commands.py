"""The commands of ovs-appctl by name, and what of the switch they have to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.engine.client import EngineClient
from penstock.openflow.agent import Agent
from penstock.openflow.host import BridgeHost
from penstock.ovsdb.appctl.coverage import Coverage
from penstock.ports.spec import PortState
from penstock.switch.control import Control
from penstock.switch.errors import unknown

T = TypeVar("T")
DATAPATH = "netdev@ovs-netdev"  # as Open vSwitch calls its datapath in user space


class CommandError(Exception):
    """A command that cannot be carried out; the text is for the one who asked."""


class Switch:
    """What commands work with. The loop of the control process alone."""

    def __init__(self, control: Control) -> None:
        assert isinstance(control.follower, Agent)
        self.control, self.agent = control, control.follower
        self.coverage = Coverage(control)
        self.cleared: dict[int, dict[str, Any]] = {}  # statistics of workers when they were cleared, by index

    def bridge(self, name: str) -> BridgeHost:
        """A bridge. Raises CommandError."""
        host = self.agent.hosts.get(name)
        if host is None:
            raise CommandError(unknown("bridge", name, self.agent.hosts))
        return host

    async def call(self, ask: Callable[[EngineClient], T]) -> T:
        """Ask the engine."""
        return await self.control.link.call(ask)

    async def ports(self) -> dict[str, list[PortState]]:
        """The ports of each bridge, in the order of their OpenFlow numbers."""
        states = await self.call(lambda client: client.ports())
        found: dict[str, list[PortState]] = {name: [] for name in self.agent.hosts}
        for state in sorted(states.values(), key=lambda each: each.ofport):
            found.setdefault(state.spec.bridge, []).append(state)
        return found


Run = Callable[[Switch, Sequence[str]], Awaitable[str]]


@dataclass(frozen=True)
class Command:
    """A command; ``least`` and ``most`` say how many arguments it takes."""

    name: str
    usage: str
    least: int
    most: int
    run: Run


COMMANDS: dict[str, Command] = {}


def command(name: str, usage: str = "", least: int = 0, most: int | None = None) -> Callable[[Run], Run]:
    """Register the function that follows under a name; ``most`` is ``least`` if not given."""

    def register(run: Run) -> Run:
        COMMANDS[name] = Command(name, usage, least, least if most is None else most, run)
        return run

    return register
