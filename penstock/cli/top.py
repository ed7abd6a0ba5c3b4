"""`penstock top`: live rates, and what the workers spend their cycles on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table, si
from penstock.observe.rates import Rates, rates
from penstock.switch.client import ControlClient

if TYPE_CHECKING:
    from rich.console import RenderableType

_PORT_HEADINGS = ("port", "rx packet/s", "rx bit/s", "tx packet/s", "tx bit/s", "drops/s")


@click.command(short_help="Show rates and worker load, live.")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between samples."
)
@click.option("--once", is_flag=True, help="Print one sample and end.")
@rundir_option
@json_option
def command(interval: float, once: bool, rundir: Path, as_json: bool) -> None:
    """Show rates per port and load, cycles per packet and burst size per worker, live; --json prints one sample."""
    client = ControlClient(rundir)
    before = client.call("sample")
    time.sleep(interval)
    after = client.call("sample")
    if as_json:
        print_json(asdict(rates(before, after)))
    elif once:
        found = rates(before, after)
        print_table(_PORT_HEADINGS, _port_rows(found))
        click.echo()
        print_table(_worker_headings(found), _worker_rows(found))
    else:
        _live(client, before, after, interval)


def _live(client: ControlClient, before: dict[str, Any], after: dict[str, Any], interval: float) -> None:
    from rich.live import Live

    try:
        with Live(_page(rates(before, after)), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_page(rates(before, after)), refresh=True)
                time.sleep(interval)
                before, after = after, client.call("sample")
    except KeyboardInterrupt:
        return


def _page(found: Rates) -> RenderableType:
    from rich.console import Group

    ports = _rich_table(_PORT_HEADINGS, _port_rows(found))
    return Group(ports, "", _rich_table(_worker_headings(found), _worker_rows(found)), "", "Ctrl-C ends")


def _rich_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading.upper(), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _port_rows(found: Rates) -> list[list[object]]:
    return [
        [port.port, si(port.rx_pps), si(port.rx_bps), si(port.tx_pps), si(port.tx_bps), si(port.drops_ps)]
        for port in found.ports
    ]


def _worker_headings(found: Rates) -> list[str]:
    stages = found.workers[0].stages if found.workers else {}
    return ["worker", "cpu", "load %", "packet/s", "cycles/packet", "burst", *stages, "sleeps/s", "longest turn"]


def _worker_rows(found: Rates) -> list[list[object]]:
    return [
        [
            worker.index,
            "any" if worker.cpu is None else worker.cpu,
            f"{100 * worker.load:.1f}",
            si(worker.pps),
            _or_dash(worker.cycles_per_packet),
            _or_dash(worker.mean_burst, 1),
            *(_or_dash(cycles) for cycles in worker.stages.values()),
            si(worker.sleeps_ps),
            "-" if worker.longest_turn is None else f"{worker.longest_turn * 1e6:.0f} µs",
        ]
        for worker in found.workers
    ]


def _or_dash(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
