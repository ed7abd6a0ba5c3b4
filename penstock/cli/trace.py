"""`penstock trace`: what the switch would do with a frame, without sending it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from penstock.cli.options import json_option, rundir_option
from penstock.cli.output import print_json, print_table
from penstock.switch.client import ControlClient, ControlError

_HEXADECIMAL = set("0123456789abcdefABCDEF:. ")


@click.command(short_help="Tell what would become of a frame.")
@click.argument("where", metavar="PORT|BRIDGE")
@click.argument("frame", nargs=-1, required=True, metavar="FRAME|FLOW...")
@rundir_option
@json_option
def command(where: str, frame: tuple[str, ...], rundir: Path, as_json: bool) -> None:
    """Trace a frame as if it came in on PORT, or a packet of a flow through the flow tables of BRIDGE.

    FRAME is hexadecimal digits (colons, dots and spaces between them are skipped), @FILE for a file of raw bytes, or @-
    for raw bytes on standard input. FLOW is a match as ovs-ofctl writes it: in_port=1,tcp,nw_dst=10.0.0.1
    """
    client = ControlClient(rundir)
    text = " ".join(frame)
    if not text.startswith("@") and not set(text) <= _HEXADECIMAL:
        result = client.call("trace_flow", bridge=where, flow=text)
    else:
        result = client.call("trace", port=where, frame=_frame(text))
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
