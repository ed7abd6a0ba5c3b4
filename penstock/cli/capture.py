"""`penstock capture`: the frames of a port as a pcapng file or stream."""

from __future__ import annotations

import base64
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import click

from penstock.cli.options import rundir_option
from penstock.switch.client import ControlClient, ControlError, Stream


@click.command(short_help="Capture the frames of a port as pcapng.")
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
    messages = ControlClient(rundir).stream("capture", port=port, snaplen=snaplen)
    # The port is known and the capture runs: only now is the file made.
    with _opened(file) as stream:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A shell starts background jobs with SIGINT ignored, so that it ends only what is in front.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: messages.stop())
        click.echo(f"capturing on port {port}", err=True)
        try:
            _write(stream, messages, port, snaplen, count)
        except BrokenPipeError:
            # Who read the pipe has seen enough. What could not be written there must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if not messages.stopped:
        raise ControlError("the control process ended the capture; what was written until then is whole")


def _write(stream: IO[bytes], messages: Stream, port: str, snaplen: int, count: int | None) -> None:
    """Write until there is enough or either side stops the messages."""
    from penstock.observe.pcapng import PcapngWriter

    writer = PcapngWriter(stream)
    interface = writer.interface(port, snaplen)
    writer.flush()
    written = lost = 0
    for message in messages:
        lost = message["lost"]
        for time_ns, direction, wire_length, data in message["frames"]:
            if written == count:
                break
            writer.frame(interface, time_ns, direction, wire_length, base64.b64decode(data))
            written += 1
        writer.flush()
        if written == count:
            messages.stop()
            break
    writer.statistics(interface, lost)
    writer.flush()
    click.echo(f"{written} frames captured, {lost} lost", err=True)


def _opened(file: str) -> AbstractContextManager[IO[bytes]]:
    if file == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        return Path(file).open("wb")
    except OSError as error:
        raise ControlError(f"{file} cannot be written: {error.strerror}") from error
