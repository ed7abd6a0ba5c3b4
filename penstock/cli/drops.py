"""`penstock drops`: which frames were dropped where, and why."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="Show what was dropped and why.")
@click.argument("port", required=False)
@rundir_option
@json_option
def command(port: str | None, rundir: Path, as_json: bool) -> None:
    """Show drops by port and reason (rx: came in there; tx: was to leave by there)."""
    rows = ControlClient(rundir).call("drops", port=port)
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("nothing was dropped")
    else:
        headings = ("port", "direction", "reason", "count", "text")
        print_table((*headings[:-1], "what it means"), [[row[heading] for heading in headings] for row in rows])
