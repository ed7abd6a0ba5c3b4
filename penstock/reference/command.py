"""`penstock bench`: measurements that a user can run; so far the reference table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from penstock.cli.output import print_json


@click.group(name="bench", short_help="Measure this switch, and Open vSwitch beside it.")
def command() -> None:
    """Measurements; each tells what it needs."""


@command.command(short_help="The reference table: VMs behind VXLAN at a cloud's scale.")
@click.option("--seconds", type=click.FloatRange(min=0.05), default=0.5, help="Of one run.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="Runs of each cell; the median counts.")
@click.option("--sizes", default="128,512,1024,1518", help="Frame sizes in bytes.")
@click.option("--vms", default="1,4,6", help="Numbers of VMs.")
@click.option("--flows", default="1,1000", help="Flows of each VM.")
@click.option("--only", multiple=True, type=click.Choice(["penstock", "open vswitch", "one"]), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Figures in JSON.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the table into this PNG file.")
def reference(
    seconds: float,
    rounds: int,
    sizes: str,
    vms: str,
    flows: str,
    only: tuple[str, ...],
    as_json: bool,
    picture: Path | None,
) -> None:
    """10,667 far ends, 350,000 VNIs and 15,000 MAC addresses; VMs send to the network by vhost-user.

    Penstock at that scale, Penstock with one of each ("one"), and Open vSwitch with DPDK at that scale where it is
    installed, by turns on the same two CPUs: one for the switch's worker, one for all guests. Needs root, two CPUs and,
    for Open vSwitch, huge pages.
    """
    from penstock.reference.measure import Plan, measure, missing
    from penstock.reference.table import tables

    lacking = missing()
    if lacking:
        raise click.UsageError(f"bench reference needs {', '.join(lacking)}")
    plan = Plan(
        sizes=tuple(map(int, sizes.split(","))),
        vms=tuple(map(int, vms.split(","))),
        flows=tuple(map(int, flows.split(","))),
        rounds=rounds,
        seconds=seconds,
        only=only,
    )
    found = measure(plan, lambda text: click.echo(text, err=True))
    if picture is not None:
        from penstock.reference.picture import draw

        draw(found, picture)
    if as_json:
        print_json({"plan": asdict(plan), **found.to_json()})
    else:
        click.echo(tables(found))
