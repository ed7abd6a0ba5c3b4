"""Run the demo: `make demo`, `make demo-vm`, or `python -m penstock.demo [--vm] [--stay]`; 0 when every claim held."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from penstock.demo import rights, vm_story
from penstock.demo.hosts import Host, HostError, cable
from penstock.demo.initramfs import GuestError
from penstock.demo.launch import PENSTOCK, LaunchError, RunningSwitch
from penstock.demo.story import GUESTS, Story, configuration
from penstock.demo.telling import demo_console
from penstock.demo.vm import kernel_with
from penstock.demo.vm_story import MachineStory


def main() -> int:
    parser = argparse.ArgumentParser(prog="penstock.demo", description="Hosts on one switch, and verdicts.")
    parser.add_argument("--vm", action="store_true", help="two virtual machines and a host, instead of four hosts")
    parser.add_argument("--stay", action="store_true", help="leave everything up until Ctrl-C, with instructions")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    console = demo_console()
    try:
        rights.acquire()
        _warm()
        held = _show(console, _stage_machines if options.vm else _stage, options.stay)
    except (rights.RightsError, HostError, LaunchError, GuestError) as error:
        print(f"penstock demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything is removed")
        return 130
    return 0 if held else 1


def _show(console: Console, stage: Callable[[ExitStack, Console], Story | MachineStory], stay: bool) -> bool:
    """The whole demo; true when every claim held."""
    with ExitStack() as stack:
        story = stage(stack, console)
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
    switch = stack.enter_context(RunningSwitch(site, directory, configuration(directory)))
    for guest in GUESTS:
        host = hosts[guest.name]
        if guest.kind == "tap":
            host.take(guest.name, site, "eth0")
        host.assign("eth0", f"{guest.address}/24", f"{guest.address6}/64")
    return Story(console, switch, hosts)


def _stage_machines(stack: ExitStack, console: Console) -> MachineStory:
    """The same with virtual machines. Raises GuestError where none can be booted."""
    kernel_with()
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
    return vm_story.stage(stack, directory, console)


if __name__ == "__main__":
    sys.exit(main())
