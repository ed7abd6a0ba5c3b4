"""`penstock flush`: have a bridge forget what it has learned."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json
from penstock.switch.client import ControlClient


@click.command(short_help="Forget learned MAC addresses.")
@click.argument("bridge")
@click.option("--port", help="Only what was learned on this port.")
@rundir_option
@json_option
def command(bridge: str, port: str | None, rundir: Path, as_json: bool) -> None:
    """Forget the MAC addresses that BRIDGE has learned."""
    result = ControlClient(rundir).call("flush", bridge=bridge, port=port)
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['flushed']} MAC addresses forgotten")
