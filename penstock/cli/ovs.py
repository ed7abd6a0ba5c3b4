"""`penstock ovs`: ovsdb-server and penstock-vswitchd together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from penstock.cli.options import F, json_option
from penstock.cli.output import print_json, print_table
from penstock.ovsdb.daemon import LOGDIR, NAME, RUNDIR
from penstock.ovsdb.service import DBDIR, SCHEMA, SERVER, Service, ServiceError


def _directory(name: str, default: Path, holds: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}",
        type=click.Path(path_type=Path),
        default=lambda: Path(os.environ.get(f"OVS_{name.upper()}", default)),
        show_default=f"$OVS_{name.upper()}, or {default}",
        help=f"Where {holds} are.",
    )


def _service(function: F) -> F:
    """The options that say where its files are."""
    function = _directory("dbdir", DBDIR, "the database and its backups")(function)
    function = _directory("logdir", LOGDIR, "logs")(function)
    return _directory("rundir", RUNDIR, "sockets and pidfiles")(function)


@click.group(short_help="Start and stop ovsdb-server with penstock-vswitchd.")
def command() -> None:
    """The switch under an Open_vSwitch database, in the place of Open vSwitch's own service."""


@command.command(short_help="Start both.")
@click.option("--schema", type=click.Path(path_type=Path), default=SCHEMA, show_default=True, help="Of the database.")
@click.option("--system-id", help="What the host is called in the database; else as it is, or a new UUID.")
@_service
def start(rundir: Path, logdir: Path, dbdir: Path, schema: Path, system_id: str | None) -> None:
    """Start what does not run yet: the database, made if there is none, then the switch, which forwards on return."""
    _say(Service(rundir, logdir, dbdir, schema).start(system_id))


@command.command(short_help="Stop both.")
@_service
def stop(rundir: Path, logdir: Path, dbdir: Path) -> None:
    """Stop the switch, then the database."""
    _say(Service(rundir, logdir, dbdir).stop())


@command.command(short_help="Say what runs.")
@json_option
@_service
def status(rundir: Path, logdir: Path, dbdir: Path, as_json: bool) -> None:
    """Say what runs; the exit code is 0 if both do, else 3."""
    service = Service(rundir, logdir, dbdir)
    found = {"ovsdb-server": service.process(SERVER), "penstock-vswitchd": service.process(NAME)}
    if as_json:
        print_json(found)
    else:
        print_table(("daemon", "process"), [[name, pid or "not running"] for name, pid in found.items()])
    if None in found.values():
        sys.exit(3)


def _say(sentences: Iterable[str]) -> None:
    """Print them as things are done."""
    try:
        for sentence in sentences:
            click.echo(sentence)
    except ServiceError as error:
        sys.exit(f"penstock: {error}")
