"""`penstock controllers`: the OpenFlow controllers of a bridge and how the connections fare."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import duration, print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="Show the OpenFlow connections of a bridge.")
@click.argument("bridge")
@rundir_option
@json_option
def command(bridge: str, rundir: Path, as_json: bool) -> None:
    """Show the controllers that BRIDGE is configured for, and the sessions that there are."""
    rows = ControlClient(rundir).call("controllers", bridge=bridge)
    if as_json:
        print_json(rows)
        return
    table = [
        [row["target"], row["state"], duration(row["seconds"]), row.get("version"), row.get("role"), row["error"]]
        for row in rows
    ]
    print_table(("target", "state", "since", "version", "role", "error"), table)
