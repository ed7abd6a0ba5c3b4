"""From what the engine has to what is wanted: a pure function gives the changes, another carries them out.

`plan` compares specs only and touches nothing, so it can be tested and shown without an engine. The order of its
changes is one that the engine can always follow: a port goes before its bridge and comes after it, and what occupies a
name or a net device goes before what takes it over. `apply` goes on after a failure, since one port that cannot be made
must not keep the others from working. Called by the control process alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from penstock.engine.client import EngineClient, EngineError, EngineGone
from penstock.ports.spec import BridgeSpec, PortSpec, PortState
from penstock.switch.model import DesiredState

LIVE = ("vlan", "mtu", "policing", "protected")  # what of a port changes while it goes on forwarding
TOGETHER = 50  # ports in one message: the engine answers nobody else meanwhile


@dataclass(frozen=True)
class RemovePort:
    name: str
    bridge: str

    def __str__(self) -> str:
        return f"remove port {self.name} from bridge {self.bridge}"


@dataclass(frozen=True)
class RemoveBridge:
    name: str

    def apply(self, client: EngineClient) -> None:
        client.remove_bridge(self.name)

    def __str__(self) -> str:
        return f"remove bridge {self.name}"


@dataclass(frozen=True)
class AddBridge:
    spec: BridgeSpec

    @property
    def name(self) -> str:
        return self.spec.name

    def apply(self, client: EngineClient) -> None:
        client.add_bridge(self.spec)

    def __str__(self) -> str:
        return f"add bridge {self.name}"


@dataclass(frozen=True)
class SetBridge:
    spec: BridgeSpec

    @property
    def name(self) -> str:
        return self.spec.name

    def apply(self, client: EngineClient) -> None:
        client.set_bridge(self.spec)

    def __str__(self) -> str:
        return f"change bridge {self.name}"


@dataclass(frozen=True)
class SetPort:
    """A change of what LIVE names, which the engine makes while the port goes on forwarding."""

    spec: PortSpec

    @property
    def name(self) -> str:
        return self.spec.name

    def apply(self, client: EngineClient) -> None:
        client.set_port(self.spec)

    def __str__(self) -> str:
        return f"change port {self.name} of bridge {self.spec.bridge}"


@dataclass(frozen=True)
class AddPort:
    spec: PortSpec

    @property
    def name(self) -> str:
        return self.spec.name

    def __str__(self) -> str:
        return f"add port {self.name} ({self.spec.kind}) to bridge {self.spec.bridge}"


Change = RemovePort | RemoveBridge | AddBridge | SetBridge | SetPort | AddPort


@dataclass(frozen=True)
class Outcome:
    """What became of one change: `error` is empty when it was made."""

    change: Change
    error: str = ""


def plan(
    actual_bridges: Mapping[str, BridgeSpec], actual_ports: Mapping[str, PortState], desired: DesiredState
) -> list[Change]:
    """The changes, in order, that turn the actual bridges and ports into the desired ones; [] when nothing differs."""
    present = {name: _spec(state, desired) for name, state in actual_ports.items()}
    remade = {
        name for name, spec in present.items() if name not in desired.ports or _needs_remake(spec, desired.ports[name])
    }
    changes: list[Change] = [RemovePort(name, present[name].bridge) for name in present if name in remade]
    changes += [RemoveBridge(name) for name in actual_bridges if name not in desired.bridges]
    changes += [AddBridge(spec) for name, spec in desired.bridges.items() if name not in actual_bridges]
    changes += [
        SetBridge(spec)
        for name, spec in desired.bridges.items()
        if name in actual_bridges and actual_bridges[name] != spec
    ]
    kept = {name: spec for name, spec in present.items() if name not in remade}
    changes += [SetPort(spec) for name, spec in desired.ports.items() if name in kept and kept[name] != spec]
    new = [spec for name, spec in desired.ports.items() if name not in kept]
    # Others must not get the OpenFlow numbers that some ask for.
    return changes + [AddPort(spec) for spec in sorted(new, key=lambda spec: spec.ofport is None)]


def broken_ports(actual_ports: Mapping[str, PortState], desired: DesiredState) -> list[PortState]:
    """The wanted ports whose net device has failed them (a TAP deleted from outside).

    A port without a device (a patch port whose peer is missing) gains nothing by being made again.
    """
    return [
        state
        for name, state in actual_ports.items()
        if state.state == "error" and state.netdev and desired.ports.get(name) == _spec(state, desired)
    ]


def repairs(actual_ports: Mapping[str, PortState], desired: DesiredState) -> list[Change]:
    """Changes that make the broken ports again."""
    broken = [_spec(state, desired) for state in broken_ports(actual_ports, desired)]
    changes: list[Change] = [RemovePort(spec.name, spec.bridge) for spec in broken]
    changes += [AddPort(spec) for spec in broken]
    return changes


def apply(client: EngineClient, changes: Iterable[Change]) -> list[Outcome]:
    """Carry out `changes` in their order; one that the engine refuses is noted, and the rest go on.

    Ports that come or go on end do so many at a time: workers have to be waited for, and are waited for once. Raises
    EngineGone when the engine is lost half-way: nothing that follows could be made, and a new engine starts empty.
    """
    outcomes = []
    for _kind, alike in groupby(changes, type):
        some = list(alike)
        for at in range(0, len(some), TOGETHER):
            part = some[at : at + TOGETHER]
            outcomes += [Outcome(*each) for each in zip(part, _apply_alike(client, part), strict=True)]
    return outcomes


def _apply_alike(client: EngineClient, changes: Sequence[Change]) -> list[str]:
    """Carry out changes of one class: for each what went wrong, or ""."""
    if new := [change.spec for change in changes if isinstance(change, AddPort)]:
        return client.add_ports(new)
    if old := [change.name for change in changes if isinstance(change, RemovePort)]:
        return client.remove_ports(old)
    return [_apply_one(client, change) for change in changes if not isinstance(change, AddPort | RemovePort)]


def _apply_one(client: EngineClient, change: RemoveBridge | AddBridge | SetBridge | SetPort) -> str:
    try:
        change.apply(client)
    except EngineGone:
        raise
    except EngineError as error:
        return str(error)
    return ""


def _spec(state: PortState, desired: DesiredState) -> PortSpec:
    """What a port was asked to be; a number that it was given counts as asked for when it is the one that is wanted.

    So it is when the numbers that the engine chose are read back from where they were written down.
    """
    wanted = desired.ports.get(state.spec.name)
    if state.spec.ofport is None and wanted is not None and wanted.ofport == state.ofport:
        return replace(state.spec, ofport=wanted.ofport)
    return state.spec


def _needs_remake(actual: PortSpec, wanted: PortSpec) -> bool:
    """Whether more differs than what `set_port` can change on a living port."""
    return replace(actual, **{name: getattr(wanted, name) for name in LIVE}) != wanted
