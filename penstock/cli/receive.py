"""`penstock receive`: count what comes in by a port of any kind; send it back, or answer as a host, where asked."""

from __future__ import annotations

import sys
from ipaddress import IPv4Interface
from typing import Any

import click

from penstock.cli.options import json_option
from penstock.cli.traffic_options import (
    PortType,
    PortWord,
    clear_errors,
    cpus_option,
    end_on_signals,
    live_line,
    print_result,
)


class InterfaceType(click.ParamType[IPv4Interface]):
    """An IPv4 address with its prefix length."""

    name = "ADDRESS/LEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Interface:
        try:
            return IPv4Interface(value)
        except ValueError as error:
            self.fail(f"'{value}' is no IPv4 address with prefix length, like 10.0.0.1/24: {error}", param, ctx)


class MacType(click.ParamType[int]):
    """A MAC address."""

    name = "MAC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from penstock.traffic.values import parse_mac

        try:
            return parse_mac(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Count the frames that come in by a port.")
@click.option("--port", type=PortType(), required=True, help="Where to receive.")
@click.option("--seconds", type=click.FloatRange(min=0.01), help="End after this time.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many generated frames.")
@click.option("--flows", type=int, default=16_384, show_default=True, help="How many flows to tell apart.")
@click.option("--window", type=int, default=1024, show_default=True, help="Frames by which one may come late.")
@click.option("--reflect", is_flag=True, help="Send every frame back.")
@click.option("--answer", type=InterfaceType(), help="Be a host of this address: answer ARP and ping.")
@click.option("--mac", type=MacType(), default="02:00:00:00:02:00", show_default=True, help="The answering host's.")
@click.option("--expect-no-loss", is_flag=True, help="Exit code 1 when a frame is missing.")
@click.option("--memory", type=click.IntRange(16, 65536), default=256, show_default=True, help="MB for tables, rings.")
@click.option("--busy", is_flag=True, help="Never sleep: exact latencies, a whole CPU.")
@cpus_option
@json_option
def command(port: PortWord, as_json: bool, expect_no_loss: bool, **options: Any) -> None:
    """Receive by a port that this process opens for itself, until --seconds, --count or Ctrl-C.

    Frames of `penstock generate` are counted by flow: missing, repeated, reordered, and how long they took when sent
    on this machine. Start the receiver first: numbers begin at 0 with each generator.
    """
    with clear_errors():
        from penstock.traffic.session import Session
        from penstock.traffic.sink import Sink

        with Session(options["memory"], options["cpus"], options["busy"]) as session:
            end_on_signals(session.stop)
            endpoint = session.open("rx", port.kind, port.options, port.mtu)
            sink = Sink(endpoint, session.hz, options["flows"], options["window"])
            if options["reflect"]:
                sink.reflect()
            if options["answer"]:
                sink.answer(options["mac"], options["answer"])
            click.echo(f"receiving by {port.kind}", err=True)
            result = session.run([], sink, None if as_json else live_line, options["seconds"], options["count"])
            print_result(result, as_json)
            if expect_no_loss and result.lost:
                sys.exit(1)
