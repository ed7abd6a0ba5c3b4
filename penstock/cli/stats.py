"""`penstock stats`: the counters of ports."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient

_COLUMNS = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped")


@click.command(short_help="Show the counters of ports.")
@click.argument("port", required=False)
@rundir_option
@json_option
def command(port: str | None, rundir: Path, as_json: bool) -> None:
    """Show counters: a line for each port, or everything counted on PORT, its device's own counters included."""
    found = ControlClient(rundir).call("stats", port=port)
    if as_json:
        print_json(found)
    elif port is not None:
        print_table(("counter", "value"), list(found[port].items()))
    else:
        rows = [[name, *(counters[column] for column in _COLUMNS)] for name, counters in found.items()]
        print_table(("port", *_COLUMNS), rows)
