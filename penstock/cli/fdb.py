"""`penstock fdb`: the MAC addresses that a bridge has learned."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="List the MAC addresses that a bridge has learned.")
@click.argument("bridge")
@rundir_option
@json_option
def command(bridge: str, rundir: Path, as_json: bool) -> None:
    """List the FDB of BRIDGE: port, VLAN, MAC address, seconds since it last sent."""
    entries = ControlClient(rundir).call("fdb", bridge=bridge)
    entries.sort(key=lambda entry: (entry["vlan"], entry["mac"]))
    if as_json:
        print_json(entries)
    else:
        rows = [
            [entry["port"], entry["vlan"], entry["mac"], "static" if entry["static"] else f"{entry['age']:.0f}"]
            for entry in entries
        ]
        print_table(("port", "vlan", "mac", "age"), rows)
