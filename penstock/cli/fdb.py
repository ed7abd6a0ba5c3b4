"""`penstock fdb`: the MAC addresses that a bridge has learned, and static ones."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="List the MAC addresses that a bridge knows, or add one.")
@click.argument("bridge")
@click.option("--add", "mac", help="Add this MAC address: it neither ages nor moves, until its port is removed.")
@click.option("--port", help="With --add: the port that the address is behind.")
@click.option("--vlan", type=int, default=0, help="With --add: the address's VLAN; 0 for untagged.")
@click.option("--remote", help="With --add: the far end that the address is behind, where the port is a tunnel's.")
@rundir_option
@json_option
def command(
    bridge: str, mac: str | None, port: str | None, vlan: int, remote: str | None, rundir: Path, as_json: bool
) -> None:
    """List the FDB of BRIDGE: port, VLAN, MAC address, seconds since it last sent, a tunnel's far end; or add a static
    address.
    """
    client = ControlClient(rundir)
    if mac is not None:
        if port is None:
            raise click.UsageError(f"--add {mac} needs --port: which port is the address behind?")
        client.call("add_fdb", bridge=bridge, port=port, vlan=vlan, mac=mac, remote=remote)
    entries = client.call("fdb", bridge=bridge)
    entries.sort(key=lambda entry: (entry["vlan"], entry["mac"]))
    if as_json:
        print_json(entries)
    else:
        rows = [
            [
                entry["port"],
                entry["vlan"],
                entry["mac"],
                "static" if entry["static"] else f"{entry['age']:.0f}",
                entry["remote"],
            ]
            for entry in entries
        ]
        print_table(("port", "vlan", "mac", "age", "far end"), rows)
