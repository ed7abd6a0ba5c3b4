"""`penstock show`: the whole switch on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import duration, print_json, print_table
from penstock.cli.ports import HEADINGS, port_cells
from penstock.switch.client import ControlClient
from penstock.switch.status import ChildStatus


@click.command(short_help="Show bridges, ports and processes.")
@rundir_option
@json_option
def command(rundir: Path, as_json: bool) -> None:
    """Show bridges, their ports, and how the engine and the control process are."""
    result = ControlClient(rundir).call("show")
    if as_json:
        print_json(result)
        return
    for bridge in result["bridges"]:
        ageing = f"MAC ageing {bridge['mac_ageing']} s" if bridge["mac_ageing"] else "no MAC ageing"
        click.echo(f"bridge {bridge['name']}: {ageing}, {bridge['mac_table_size']} MAC addresses at most")
        if bridge["error"]:
            click.echo(f"  error: {bridge['error']}")
        if bridge["ports"]:
            print_table(HEADINGS, [port_cells(row) for row in bridge["ports"]], indent="  ")
    engine, supervisor = result["engine"], result["supervisor"]
    workers = f"{engine['workers']} worker{'s' if engine['workers'] != 1 else ''}"
    pinned = [str(cpu) for cpu in engine["cpus"] if cpu is not None and cpu >= 0]
    cpus = f" on CPU {', '.join(pinned)}" if pinned else ""
    _process("engine", engine, supervisor, f"{workers}{cpus}, polling {engine['poll']}")
    _process("control", result["control"], supervisor, "")


def _process(name: str, process: dict[str, Any], supervisor: dict[str, Any] | None, more: str) -> None:
    facts = [f"process {process['pid']}", f"up {duration(time.time() - process['started'])}"]
    if more:
        facts.append(more)
    if supervisor is not None:
        status = ChildStatus(**supervisor[name])
        if status.restarts:
            facts.append(f"restarted {status.restarts} time{'s' if status.restarts != 1 else ''}")
        if status.history:
            facts.append(f"it {status.history}")
    click.echo(f"{name}: {', '.join(facts)}")
