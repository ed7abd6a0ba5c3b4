"""`penstock ports`: one line per port."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table, vlan_text
from penstock.switch.client import ControlClient

HEADINGS = ("port", "type", "vlan", "state", "mtu", "netdev", "mac", "queues", "offloads", "error")


def port_cells(row: dict[str, Any]) -> list[object]:
    """The columns of HEADINGS for one port."""
    known = {**row, "port": row["name"], "vlan": vlan_text(row["vlan"]), "offloads": ",".join(row["offloads"])}
    return [known[heading] for heading in HEADINGS]


@click.command(short_help="List the ports.")
@rundir_option
@json_option
def command(rundir: Path, as_json: bool) -> None:
    """List the ports: bridge, kind, VLANs, state, MTU, offloads, and what is wrong with them."""
    rows: Sequence[dict[str, Any]] = ControlClient(rundir).call("ports")
    if as_json:
        print_json(rows)
    else:
        print_table(("bridge", *HEADINGS), [[row["bridge"], *port_cells(row)] for row in rows])
