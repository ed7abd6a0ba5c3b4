"""The `penstock` command: finds the verb's module in a table and leaves the rest to it.

Adding a verb is one module with a click command named `command` and one line in VERBS. Modules are imported only
when used, and plain verbs never import Numba, so that the command line answers at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from penstock import __version__
from penstock.switch.client import ControlError
from penstock.switch.errors import SourceError, unknown
from penstock.switch.rundir import RundirError

VERBS = {
    "run": "penstock.cli.run",
    "reload": "penstock.cli.reload",
    "stop": "penstock.cli.stop",
    "show": "penstock.cli.show",
    "ports": "penstock.cli.ports",
    "fdb": "penstock.cli.fdb",
    "flush": "penstock.cli.flush",
    "stats": "penstock.cli.stats",
    "drops": "penstock.cli.drops",
    "tunnels": "penstock.cli.tunnels",
    "top": "penstock.cli.top",
    "capture": "penstock.cli.capture",
    "trace": "penstock.cli.trace",
    "flows": "penstock.cli.flows",
    "groups": "penstock.cli.groups",
    "meters": "penstock.cli.meters",
    "cache": "penstock.cli.cache",
    "controllers": "penstock.cli.controllers",
    "ovs": "penstock.cli.ovs",
    "generate": "penstock.cli.generate",
    "receive": "penstock.cli.receive",
    "doctor": "penstock.cli.doctor",
    "compile": "penstock.cli.compile",
    "bench": "penstock.reference.command",
}


class VerbGroup(click.Group):
    """Commands from VERBS, each loaded when first asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            raise click.UsageError(unknown("verb", cmd_name, VERBS), ctx)
        command: click.Command = import_module(VERBS[cmd_name]).command
        return command


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="penstock")
def penstock() -> None:
    """A user-space virtual switch. Start one with 'penstock run', then look at it with the other verbs."""


def main(*arguments: Any) -> None:
    """Run the command line and exit: 0 when done, 1 when it failed, 2 when it was called wrongly."""
    try:
        penstock(list(arguments) or None, prog_name="penstock")
    except SourceError as error:
        sys.exit(str(error))
    except (ControlError, RundirError) as error:
        sys.exit(f"penstock: {error}")
