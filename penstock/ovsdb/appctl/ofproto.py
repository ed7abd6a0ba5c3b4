"""ofproto/... and bridge/...: bridges, their flows, and the way of a packet through them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.openflow.host import BridgeHost
from penstock.openflow.packet_in import in_port
from penstock.openflow.text_match import TextError, parse_match, show_match, show_port
from penstock.openflow.verbs import FlowVerbs
from penstock.ovsdb.appctl.commands import CommandError, Switch, command

FLOW = re.compile(r"table (\d+): (.*?) ?actions=(.*)", re.DOTALL)
GENERATE = ("-generate", "--generate")
TABLE = re.compile(r"table (\d+): (.*)", re.DOTALL)


@command("ofproto/list")
async def bridges(switch: Switch, _words: Sequence[str]) -> str:
    """The bridges."""
    return "\n".join(sorted(switch.agent.hosts))


@command("bridge/dump-flows", "bridge", 1)
async def dump_flows(switch: Switch, words: Sequence[str]) -> str:
    """Every flow, hidden ones included, as `ovs-ofctl dump-flows` shows them."""
    rows = await FlowVerbs(switch.control, switch.agent).flows({"bridge": words[-1]})
    return "\n".join(f"duration={int(row['duration'])}s, {row['text']}" for row in rows)


@command("bridge/reconnect", "[bridge]", 0, 1)
async def reconnect(switch: Switch, words: Sequence[str]) -> str:
    """Make the connections to controllers anew, of one bridge or of all."""
    for host in [switch.bridge(words[0])] if words else list(switch.agent.hosts.values()):
        await host.reconnect()
    return ""


@command("ofproto/trace", "bridge flow [-generate|packet]", 1, 4)
async def trace(switch: Switch, words: Sequence[str]) -> str:
    """The way of a packet that a flow describes, or of the bytes of one that comes in by the flow's in_port.

    Nothing is learned on the way, with -generate neither: a packet is made in any case.
    """
    words = [word for word in words if word not in GENERATE]
    if any(word.startswith("-") for word in words) or not 2 <= len(words) <= 3:
        raise CommandError("ofproto/trace takes a bridge, a flow as ovs-ofctl writes it, and perhaps a packet in hex")
    host = switch.bridge(words[0])
    names_of, numbers = host.port_names()
    try:
        match = parse_match(words[1], names_of)
    except TextError as error:
        raise CommandError(str(error)) from error
    verbs = FlowVerbs(switch.control, switch.agent)
    if len(words) == 3:
        port = host.ports.get(in_port(match.key))
        if port is None:
            raise CommandError(
                f"the flow '{words[1]}' has no in_port of bridge {words[0]} for the packet to come in by"
            )
        result = await verbs.trace({"port": port.name, "frame": words[2]})
    else:
        result = await verbs.trace_flow({"bridge": words[0], "flow": words[1]})
    flow = ",".join(show_match(match, numbers))
    return "\n".join([f"Flow: {flow}", "", *_header(words[0]), *_steps(result["steps"]), "", *_end(host, result)])


def _header(bridge: str) -> list[str]:
    title = f'bridge("{bridge}")'
    return [title, "-" * len(title)]


def _steps(steps: Sequence[str]) -> list[str]:
    """Lookups with the number of their table in front, what they led to below."""
    lines = []
    for step in steps:
        if found := FLOW.fullmatch(step):
            lines += [f"{int(found[1]):2}. {found[2] or 'any'}", f"    {found[3]}"]
        elif found := TABLE.fullmatch(step):
            lines.append(f"{int(found[1]):2}. {found[2]}")
        else:
            lines.append(f"     -> {step}")
    return lines


def _end(host: BridgeHost, result: Mapping[str, Any]) -> list[str]:
    """What becomes of it, with numbers of OpenFlow for the ports of this bridge and names for those of others."""
    ports, _ = host.port_names()
    outputs = [
        show_port(ports[each["port"]], {}) if each["port"] in ports else each["port"] for each in result["outputs"]
    ]
    lines = [f"Dropped: {result['drop']}"] if result["drop"] else []
    return [*lines, f"Datapath actions: {','.join(outputs) or 'drop'}"]
