"""dpif/..., dpctl/... and netdev-dummy/...: the datapath and its ports."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.engine.client import CachedWay, EngineClient
from penstock.openflow.compose import compose
from penstock.openflow.host import BridgeHost
from penstock.openflow.match import Match
from penstock.openflow.ports import PORT_DOWN
from penstock.openflow.text_match import TextError, parse_match, show_match
from penstock.openflow.text_shown import show_instructions
from penstock.ovsdb.appctl.commands import DATAPATH, CommandError, Switch, command
from penstock.ovsdb.publish import ofport_of
from penstock.ovsdb.translate import type_of
from penstock.ports.spec import PortState

TRIES = 10


def _hits(client: EngineClient) -> tuple[int, int]:
    """Packets that flow caches knew, and those that they did not."""
    rows = client.cache_stats()
    misses = sum(row["misses"] for row in rows)
    return sum(row["packets"] for row in rows) - misses, misses


def _kind(state: PortState) -> str:
    """The type of a port's interface, with what tells a tunnel from others."""
    options = state.spec.options
    told = [f"{key}={options[key]}" for key in ("key", "remote_ip", "peer") if options.get(key) not in (None, "")]
    return f"({type_of(state.spec)}{': ' + ', '.join(told) if told else ''})"


@command("dpif/show")
async def dpif_show(switch: Switch, _words: Sequence[str]) -> str:
    """Bridges with their ports: name, number in OpenFlow and in the engine, type."""
    hit, missed = await switch.call(_hits)
    lines = [f"{DATAPATH}: hit:{hit} missed:{missed}"]
    for bridge, states in (await switch.ports()).items():
        lines.append(f"  {bridge}:")
        for state in sorted(states, key=lambda each: each.spec.name):
            lines.append(f"    {state.spec.name} {ofport_of(state)}/{state.number}: {_kind(state)}")
    return "\n".join(lines)


@command("dpctl/show", "[dp]", 0, 1)
async def dpctl_show(switch: Switch, _words: Sequence[str]) -> str:
    """The ports of the one datapath."""
    hit, missed = await switch.call(_hits)
    states = [state for some in (await switch.ports()).values() for state in some]
    lines = [f"{DATAPATH}:", f"  lookups: hit:{hit} missed:{missed} lost:0"]  # none wait for anybody, so none is lost
    for state in sorted(states, key=lambda each: each.number):
        lines.append(f"  port {state.number}: {state.spec.name} {_kind(state)}")
    return "\n".join(lines)


@command("dpctl/dump-flows", "[dp]", 0, 1)
async def dpctl_dump_flows(switch: Switch, _words: Sequence[str]) -> str:
    """What the flow caches hold of all bridges."""
    return "\n".join([line for host in switch.agent.hosts.values() for line in await _cached(switch, host)])


@command("dpif/dump-flows", "[-m] bridge", 1, 2)
async def dpif_dump_flows(switch: Switch, words: Sequence[str]) -> str:
    """What the flow caches hold of a bridge."""
    return "\n".join(await _cached(switch, switch.bridge(words[-1])))


async def _cached(switch: Switch, host: BridgeHost) -> list[str]:
    """A line for each kind of packet that a flow cache knows: its match, the worker, what the flows on its way do."""
    tables = host.bridge.tables
    for _ in range(TRIES):
        version, ways = await switch.call(lambda client: client.cached_ways(tables.address))
        # Only of this version are the flows still there.
        if int(tables.row["version"]) == version:
            return sorted(_line(host, way) for way in ways)
    raise CommandError(f"bridge {host.spec.name}: its flows change too fast to be read with the caches")


def _line(host: BridgeHost, way: CachedWay) -> str:
    _, numbers = host.port_names()
    match = ",".join(show_match(Match(way.key, way.mask), numbers)) or "any"
    actions = [
        show_instructions(host.bridge.instructions(host.bridge.tables.read(flow)), numbers) if flow else "miss"
        for _, flow in way.steps
    ]
    tables = ",".join(str(table) for table, _ in way.steps)
    return f"bridge({host.spec.name}),{match}, worker:{way.worker}, tables:{tables}, actions:{';'.join(actions)}"


@command("dpctl/dump-dps")
@command("dpif/dump-dps")
async def dump_dps(_switch: Switch, _words: Sequence[str]) -> str:
    """The datapaths, of which there is one."""
    return DATAPATH


@command("upcall/show")
async def upcall_show(_switch: Switch, _words: Sequence[str]) -> str:
    """That there are no upcalls."""
    return f"{DATAPATH}:\n  there are no upcalls: a packet of a new flow is looked up by the worker that received it"


@command("netdev-dummy/receive", "name packet|flow...", 2, 64)
async def receive(switch: Switch, words: Sequence[str]) -> str:
    """Have a dummy port receive packets, each in hex or as a flow that describes it."""
    spec = switch.control.desired.ports.get(words[0])
    if spec is None or spec.kind != "dummy":
        raise CommandError(f"{words[0]}: no such interface of type dummy")
    names, _ = switch.bridge(spec.bridge).port_names()
    frames = [_frame(word, names) for word in words[1:]]
    await switch.call(lambda client: client.inject(words[0], frames))
    return ""


@command("netdev-dummy/set-admin-state", "[netdev] up|down", 1, 2)
async def set_admin_state(switch: Switch, words: Sequence[str]) -> str:
    """Have one dummy port, or all, be up or down: one that is down neither receives nor sends (OFPPC_PORT_DOWN)."""
    *names, state = words
    if state not in ("up", "down"):
        raise CommandError(f"Invalid Admin State '{state}': up or down")
    specs = switch.control.desired.ports
    if any(name not in specs or specs[name].kind != "dummy" for name in names):
        raise CommandError("Unknown Dummy Interface")
    for name in names or [name for name, spec in specs.items() if spec.kind == "dummy"]:
        host = switch.bridge(specs[name].bridge)
        port = next((port for port in host.ports.values() if port.name == name), None)
        if port is None:
            raise CommandError(f"{name} is not there: its interface's error says why")
        down = PORT_DOWN if state == "down" else 0
        await host.set_port_config(port, port.config & ~PORT_DOWN | down)
    return "OK"


def _frame(word: str, names: dict[str, int]) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        try:
            return compose(parse_match(word, names).key)
        except TextError as error:
            raise CommandError(f"'{word}' is neither a packet in hex nor a flow: {error}") from error
