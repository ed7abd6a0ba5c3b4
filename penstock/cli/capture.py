"""`penstock capture`: the frames of a port as a pcapng file or stream."""

from __future__ import annotations

import base64
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import click

from penstock.cli.options import rundir_option
from penstock.switch.client import ControlClient, ControlError


@click.command()
@click.argument("port")
@click.option("-w", "file", required=True, metavar="FILE", help="Where to write; - is standard output.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many frames.")
@click.option(
    "--snaplen", type=click.IntRange(1, 262144), default=262144, show_default=True, help="Bytes kept per frame."
)
@rundir_option
def command(port: str, file: str, count: int | None, snaplen: int, rundir: Path) -> None:
    """Capture what PORT receives and sends, until Ctrl-C.

    Into Wireshark: penstock capture PORT -w - | wireshark -k -i -
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    messages = ControlClient(rundir).stream("capture", port=port, snaplen=snaplen)
    next(messages)  # the port is known and the capture runs: only now is the file made
    with _opened(file) as stream:
        click.echo(f"capturing on port {port}", err=True)
        ended = _write(stream, messages, port, snaplen, count)
    if not ended:
        raise ControlError("the control process ended the capture; what was written until then is whole")


def _write(stream: IO[bytes], messages: Iterator[Any], port: str, snaplen: int, count: int | None) -> bool:
    """Write until enough or interrupted (true), or until the control process ends it (false)."""
    from penstock.observe.pcapng import PcapngWriter

    writer = PcapngWriter(stream)
    interface = writer.interface(port, snaplen)
    writer.flush()
    written = lost = 0
    ended = False
    try:
        for message in messages:
            lost = message["lost"]
            for time_ns, direction, wire_length, data in message["frames"]:
                writer.frame(interface, time_ns, direction, wire_length, base64.b64decode(data))
                written += 1
                if written == count:
                    break
            writer.flush()
            if written == count:
                ended = True
                break
    except KeyboardInterrupt:
        ended = True
    except BrokenPipeError:
        # Who read the pipe has seen enough; nothing more can be written, not even at exit.
        sys.stdout = None
        return True
    writer.statistics(interface, lost)
    writer.flush()
    click.echo(f"{written} frames captured, {lost} lost", err=True)
    return ended


def _opened(file: str) -> AbstractContextManager[IO[bytes]]:
    if file == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        return Path(file).open("wb")
    except OSError as error:
        raise ControlError(f"{file} cannot be written: {error.strerror}") from error
