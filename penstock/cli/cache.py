"""`penstock cache`: how well the workers' flow caches do."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient


@click.command(short_help="Show hits and misses of the flow caches.")
@rundir_option
@json_option
def command(rundir: Path, as_json: bool) -> None:
    """Show, for each worker, the packets that went through flow tables and how many of them its flow cache knew.

    A packet that the cache does not know is looked up in the tables, by the same worker.
    """
    rows = ControlClient(rundir).call("cache")
    if as_json:
        print_json(rows)
        return
    table = []
    for worker, row in enumerate(rows):
        hits = row["packets"] - row["misses"]
        rate = f"{100 * hits / row['packets']:.1f} %" if row["packets"] else "-"
        table.append([worker, row["packets"], hits, row["misses"], rate, row["entries"]])
    print_table(("worker", "packets", "hits", "misses", "hit rate", "entries"), table)
