"""`penstock groups`: the groups of a bridge."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json
from penstock.switch.client import ControlClient


@click.command(short_help="List the groups of a bridge.")
@click.argument("bridge")
@rundir_option
@json_option
def command(bridge: str, rundir: Path, as_json: bool) -> None:
    """List the groups of BRIDGE with their buckets and what each of these counted."""
    groups = ControlClient(rundir).call("groups", bridge=bridge)
    if as_json:
        print_json(groups)
        return
    for group in groups:
        click.echo(f"group {group['group']}: {group['type']}, {group['packets']} packets, {group['bytes']} bytes")
        for number, bucket in enumerate(group["buckets"]):
            click.echo(f"  bucket {number}: {bucket['packets']} packets, {bucket['bytes']} bytes: {bucket['text']}")
