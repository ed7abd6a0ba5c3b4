"""`penstock trace`: what the switch would do with a frame, without sending it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient, ControlError


@click.command(short_help="Tell what would become of a frame.")
@click.argument("port")
@click.argument("frame", nargs=-1, required=True)
@rundir_option
@json_option
def command(port: str, frame: tuple[str, ...], rundir: Path, as_json: bool) -> None:
    """Trace FRAME as if it came in on PORT.

    FRAME is hexadecimal digits (colons, dots and spaces between them are skipped), @FILE for a file of raw bytes, or @-
    for raw bytes on standard input.
    """
    result = ControlClient(rundir).call("trace", port=port, frame=_frame(" ".join(frame)))
    if as_json:
        print_json(result)
        return
    for name, value in result["fields"].items():
        click.echo(f"{name}: {value}")
    for number, step in enumerate(result["steps"], 1):
        click.echo(f"{number}. {step}")
    if result["drop"]:
        click.echo(f"dropped: {result['drop']}")
    if result["outputs"]:
        rows = [[output["port"], len(output["frame"]) // 2, output["frame"]] for output in result["outputs"]]
        print_table(("output", "bytes", "frame"), rows)


def _frame(text: str) -> str:
    """The frame in plain hexadecimal digits."""
    if text.startswith("@"):
        try:
            return (sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()).hex()
        except OSError as error:
            raise ControlError(f"frame file {text[1:]} cannot be read: {error.strerror}") from error
    return "".join(text.replace(":", "").replace(".", "").split())
