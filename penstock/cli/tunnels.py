"""`penstock tunnels`: the far ends of tunnels and how each is reached."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="List the far ends of tunnels.")
@click.argument("port", required=False)
@rundir_option
@json_option
def command(port: str | None, rundir: Path, as_json: bool) -> None:
    """List far ends: addresses of both ends, the next hop on the link and its MAC address, the link's MTU, packets that
    wait for the way to be found, and what is in the way.
    """
    rows = ControlClient(rundir).call("tunnels", port=port)
    rows.sort(key=lambda row: (row["port"], row["remote"]))
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("no tunnel has a far end")
    else:
        headings = ("port", "remote", "local", "next hop", "mac", "mtu", "waiting", "state", "error")
        print_table(headings, [[row[heading.replace(" ", "_")] for heading in headings] for row in rows])
