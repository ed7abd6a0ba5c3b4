"""`penstock flows`: the flow entries of a bridge."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json
from penstock.switch.client import ControlClient


@click.command(short_help="List the flow entries of a bridge.")
@click.argument("bridge")
@click.argument("match", required=False, default="")
@rundir_option
@json_option
def command(bridge: str, match: str, rundir: Path, as_json: bool) -> None:
    """List the flow entries of BRIDGE, or those within MATCH, which is written as for ovs-ofctl: table=0,tcp"""
    flows = ControlClient(rundir).call("flows", bridge=bridge, match=match)
    if as_json:
        print_json(flows)
        return
    for flow in flows:
        click.echo(flow["text"])
