"""fdb/...: the MAC addresses of a bridge (ovs-vswitchd(8), BRIDGE COMMANDS)."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.openflow.text_match import show_port
from penstock.ovsdb.appctl.commands import CommandError, Switch, command


@command("fdb/show", "bridge", 1)
async def show(switch: Switch, words: Sequence[str]) -> str:
    """Port, VLAN, address and age in seconds of each entry."""
    host = switch.bridge(words[0])
    names, _ = host.port_names()
    lines = [" port  VLAN  MAC                Age"]
    for entry in await switch.call(lambda client: client.fdb(words[0])):
        port = show_port(names[entry.port], {}) if entry.port in names else entry.port
        age = "static" if entry.static else f"{int(entry.age):3}"
        lines.append(f"{port:>5}  {entry.vlan:4}  {entry.mac}  {age}")
    return "\n".join(lines)


@command("fdb/flush", "[bridge]", 0, 1)
async def flush(switch: Switch, words: Sequence[str]) -> str:
    """Forget what was learned, of one bridge or of all."""
    names = [switch.bridge(words[0]).spec.name] if words else list(switch.agent.hosts)
    await switch.call(lambda client: [client.flush_fdb(name) for name in names])
    return "table successfully flushed"


@command("fdb/stats-show", "bridge", 1)
async def stats_show(switch: Switch, words: Sequence[str]) -> str:
    """How full the table is, and what became of addresses."""
    name = switch.bridge(words[0]).spec.name
    entries, stats = await switch.call(lambda client: (client.fdb(name), client.fdb_stats(name)))
    rows = (
        ("Current/maximum MAC entries in the table", f"{len(entries)}/{stats['limit']}"),
        ("Current static MAC entries in the table ", sum(entry.static for entry in entries)),
        ("Total number of learned MAC entries     ", stats["learned"]),
        ("Total number of expired MAC entries     ", stats["expired"]),
        ("Total number of evicted MAC entries     ", stats["evicted"]),
        ("Total number of port moved MAC entries  ", stats["moved"]),
        ("Addresses refused as the table was full ", stats["refused"]),
    )
    return "\n".join([f'Statistics for bridge "{name}":', *(f"  {text}: {value}" for text, value in rows)])


@command("fdb/add", "bridge port vlan mac", 4)
async def add(switch: Switch, words: Sequence[str]) -> str:
    """Add an address that neither ages nor moves."""
    bridge, port, vlan, mac = switch.bridge(words[0]).spec.name, words[1], _vlan(words[2]), words[3]
    await switch.call(lambda client: client.add_fdb(bridge, port, vlan, mac))
    return ""


@command("fdb/del", "bridge vlan mac", 3)
async def delete(switch: Switch, words: Sequence[str]) -> str:
    """Forget an address, static or not."""
    bridge, vlan, mac = switch.bridge(words[0]).spec.name, _vlan(words[1]), words[2]
    await switch.call(lambda client: client.remove_fdb(bridge, vlan, mac))
    return ""


def _vlan(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise CommandError(f"VLAN '{text}' is no number: 0 (untagged) to 4094") from None
