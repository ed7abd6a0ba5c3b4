"""`penstock doctor`: what this machine offers and lacks."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from penstock.cli.options import json_option
from penstock.cli.output import print_json, print_table

_COLOURS = {"good": "green", "fair": "yellow", "bad": "red"}


@click.command(short_help="Tell what this machine offers and lacks.")
@json_option
def command(as_json: bool) -> None:
    """Look at huge pages, CPU, rights, devices and the compile cache; exit code 1 when something will not work."""
    from penstock.observe.doctor import examine

    checks = examine()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("check", "verdict", "found"), [[check.name, check.verdict, check.found] for check in checks])
        for check in checks:
            if check.advice:
                click.echo(f"{click.style(check.name, fg=_COLOURS[check.verdict])}: {check.advice}")
    sys.exit(1 if any(check.verdict == "bad" for check in checks) else 0)
