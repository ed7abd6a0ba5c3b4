"""Entry of the control process: `python -m penstock.switch --config FILE --rundir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from penstock.config.load import load
from penstock.engine.client import EngineClient
from penstock.openflow.agent import Agent
from penstock.openflow.verbs import flow_verbs
from penstock.switch.control import Control
from penstock.switch.errors import SourceError
from penstock.switch.rundir import CONTROL_SOCKET, RundirError, make_rundir
from penstock.switch.server import ControlServer
from penstock.switch.supervisor import EXIT_CONFIG, NOTIFY_VARIABLE
from penstock.switch.verbs import streams, verbs


def main(connect: Callable[[Path], EngineClient]) -> int:
    """Run a control process on the engine that `connect` reaches; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m penstock.switch", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rundir", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s control: %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        make_rundir(arguments.rundir)
        asyncio.run(_run(arguments.rundir, arguments.config, connect))
    except SourceError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except RundirError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(rundir: Path, config: Path, connect: Callable[[Path], EngineClient]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    control = Control(rundir, partial(load, config), partial(connect, rundir), _notifier(), Agent)
    agent = control.follower
    assert isinstance(agent, Agent)
    known = verbs(control) | flow_verbs(control, agent)
    await control.run(ControlServer(rundir / CONTROL_SOCKET, known, streams(control)), stop)


def _notifier() -> Callable[[dict[str, Any]], None]:
    """Tells the supervisor that the switch is ready; does nothing without one."""
    number = os.environ.get(NOTIFY_VARIABLE)
    if number is None:
        return lambda _message: None
    descriptor = int(number)
    os.set_inheritable(descriptor, False)

    def notify(message: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")

    return notify


if __name__ == "__main__":
    sys.exit(main(EngineClient.connect))
