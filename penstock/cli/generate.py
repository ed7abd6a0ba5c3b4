"""`penstock generate`: send frames by a port of any kind, measure what comes back, search for RFC 2544's throughput."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from penstock.cli.options import json_option
from penstock.cli.output import print_json, print_table, si
from penstock.cli.traffic_options import (
    DeclaredCommand,
    PortType,
    PortWord,
    clear_errors,
    cpus_option,
    end_on_signals,
    from_options,
    latency_text,
    live_line,
    print_result,
)

if TYPE_CHECKING:
    from penstock.traffic.endpoint import Endpoint
    from penstock.traffic.rfc2544 import Search, Throughput
    from penstock.traffic.session import Session
    from penstock.traffic.stream import Stream


@click.command(
    cls=DeclaredCommand,
    declared=("penstock.traffic.stream:Stream", "penstock.traffic.rfc2544:Search"),
    short_help="Send frames by a port; measure loss and latency.",
)
@click.option("--port", type=PortType(), required=True, help="Where to send.")
@click.option("--rx", type=PortType(), help="Where the frames come out: gives loss, reordering and latency.")
@click.option("--loopback", is_flag=True, help="The frames come back by --port itself (a reflecting receiver).")
@click.option("--pcap", type=click.Path(path_type=Path), help="Send the frames of a capture file as they are.")
@click.option("--loop", type=click.IntRange(min=1), default=1, show_default=True, help="Times to go through --pcap.")
@click.option("--own-speed", is_flag=True, help="Send --pcap at the speed of its time stamps.")
@click.option("--no-learn", is_flag=True, help="Do not first send a frame from each destination by --rx.")
@click.option("--rfc2544", is_flag=True, help="Search the throughput for each size of --size.")
@click.option("--expect-no-loss", is_flag=True, help="Exit code 1 when a frame is lost.")
@click.option("--memory", type=click.IntRange(16, 65536), default=512, show_default=True, help="MB for frames, rings.")
@click.option("--busy", is_flag=True, help="Never sleep: exact latencies, a whole CPU.")
@cpus_option
@json_option
def command(port: PortWord, rx: PortWord | None, as_json: bool, expect_no_loss: bool, **options: Any) -> None:
    """Send generated frames, or those of a capture file, by a port that this process opens for itself.

    Sizes count the 4 bytes of the frame check sequence, as on a wire. Ctrl-C ends with the summary.
    """
    if options["loopback"] and rx is not None:
        raise click.UsageError("--loopback and --rx exclude each other")
    if options["rfc2544"] and not (rx or options["loopback"]):
        raise click.UsageError("--rfc2544 needs --rx or --loopback: it counts what arrives")
    if expect_no_loss and not (rx or options["loopback"]):
        raise click.UsageError("--expect-no-loss needs --rx or --loopback: it counts what arrives")
    with clear_errors():
        from penstock.traffic.generator import Generator
        from penstock.traffic.rfc2544 import SIZES, Search
        from penstock.traffic.session import Session
        from penstock.traffic.sink import Sink
        from penstock.traffic.stream import Stream

        source = click.get_current_context().get_parameter_source("size")
        if options["rfc2544"] and source is ParameterSource.DEFAULT:
            options["size"] = SIZES
        with Session(options["memory"], options["cpus"], options["busy"]) as session:
            end_on_signals(session.stop)
            tx = session.open("tx", port.kind, port.options, port.mtu)
            back = session.open("rx", rx.kind, rx.options, rx.mtu) if rx else tx if options["loopback"] else None
            stream: Stream = from_options(Stream, options)
            if rx and back and not options["no_learn"]:
                session.learn(stream, back)
            if options["rfc2544"]:
                assert back
                _search(session, tx, back, stream, from_options(Search, options), as_json)
                return
            if options["pcap"]:
                generator = session.replay(
                    tx, options["pcap"], stream.frames_per_second, options["loop"], options["own_speed"]
                )
            else:
                generator = Generator.of_stream(tx, stream, session.hz)
            sink = Sink(back, session.hz, stream.first_flow + stream.flow_count) if back else None
            result = session.run([generator], sink, None if as_json else live_line)
            print_result(result, as_json)
            if expect_no_loss and result.lost:
                sys.exit(1)


def _search(session: Session, tx: Endpoint, rx: Endpoint, stream: Stream, how: Search, as_json: bool) -> None:
    """Throughput of each size."""
    found: list[Throughput] = []
    for size in stream.sizes:
        found.append(session.throughput(tx, rx, replace(stream, size=str(size)), how))
        if session.stopped:
            break
        if not as_json:
            click.echo(f"{size} bytes: {si(found[-1].frames_per_second)}pps", err=True)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    headings = ("size", "frame/s", "bit/s", "trials", "limit", "latency")
    rows = [
        (
            str(each.size),
            si(each.frames_per_second),
            si(each.bits_per_second),
            str(each.trials),
            "generator" if each.limited else "device",
            latency_text(each.latency) if each.latency else "",
        )
        for each in found
    ]
    print_table(headings, rows)
