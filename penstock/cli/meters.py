"""`penstock meters`: the meters of a bridge."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json
from penstock.switch.client import ControlClient


@click.command(short_help="List the meters of a bridge.")
@click.argument("bridge")
@rundir_option
@json_option
def command(bridge: str, rundir: Path, as_json: bool) -> None:
    """List the meters of BRIDGE with their bands and what each of these was applied to."""
    meters = ControlClient(rundir).call("meters", bridge=bridge)
    if as_json:
        print_json(meters)
        return
    for meter in meters:
        click.echo(f"meter {meter['meter']}: {meter['unit']}, {meter['packets']} packets, {meter['bytes']} bytes")
        for number, band in enumerate(meter["bands"]):
            click.echo(f"  band {number}: {band['text']}: {band['packets']} packets, {band['bytes']} bytes")
