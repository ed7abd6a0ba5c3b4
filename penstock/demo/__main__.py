"""Run the demo: `make demo`, or `python -m penstock.demo [--stay]`. Exit code 0 when every claim held."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from penstock.demo import rights
from penstock.demo.hosts import Host, HostError, cable
from penstock.demo.launch import PENSTOCK, LaunchError, RunningSwitch
from penstock.demo.story import GUESTS, Story, configuration


def main() -> int:
    parser = argparse.ArgumentParser(prog="penstock.demo", description="Four hosts on two VLANs of one switch.")
    parser.add_argument("--stay", action="store_true", help="leave everything up until Ctrl-C, with instructions")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False)
    try:
        rights.acquire()
        _warm()
        held = _show(console, options.stay)
    except (rights.RightsError, HostError, LaunchError) as error:
        print(f"penstock demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything is removed")
        return 130
    return 0 if held else 1


def _show(console: Console, stay: bool) -> bool:
    """The whole demo; true when every claim held."""
    with ExitStack() as stack:
        story = _stage(stack, console)
        held = story.tell()
        if stay:
            story.instructions(rights.inside())
            with suppress(KeyboardInterrupt):
                signal.pause()
    return held


def _warm() -> None:
    """Compile what is not compiled yet, in sight."""
    from penstock.machine import cache_is_warm

    if not cache_is_warm():
        print("compiling the data plane (once)", flush=True)
        subprocess.run([*PENSTOCK, "compile"], check=True)


def _stage(stack: ExitStack, console: Console) -> Story:
    """Hosts, cables and a running switch, all removed when `stack` closes."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
    site = stack.enter_context(Host("switch"))
    hosts = {guest.name: stack.enter_context(Host(guest.name)) for guest in GUESTS}
    for guest in GUESTS:
        if guest.kind == "packet":
            cable(site, guest.name, hosts[guest.name], "eth0")
    switch = stack.enter_context(RunningSwitch(site, directory, configuration()))
    for guest in GUESTS:
        host = hosts[guest.name]
        if guest.kind == "tap":
            host.take(guest.name, site, "eth0")
        host.assign("eth0", f"{guest.address}/24", f"{guest.address6}/64")
    return Story(console, switch, hosts)


if __name__ == "__main__":
    sys.exit(main())
