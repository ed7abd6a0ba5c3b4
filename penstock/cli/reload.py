"""`penstock reload`: bring the switch to the configuration file as it is now."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json
from penstock.switch.client import ControlClient


@click.command(short_help="Bring the switch to its configuration file.")
@rundir_option
@json_option
def command(rundir: Path, as_json: bool) -> None:
    """Read the configuration file again and change what differs; a file with an error changes nothing."""
    result = ControlClient(rundir).call("reload")
    if as_json:
        print_json(result)
    else:
        for change in result["changes"]:
            click.echo(change)
        if not result["changes"] and not result["failures"]:
            click.echo("nothing to change")
    for note in result["notes"]:
        click.echo(note, err=True)
    for failure in result["failures"]:
        click.echo(f"penstock: {failure['error']}", err=True)
    sys.exit(1 if result["failures"] else 0)
