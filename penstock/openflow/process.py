"""A control process with its OpenFlow agent, whatever its desired state comes from, until a signal ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.client import EngineClient
from penstock.openflow.agent import Agent
from penstock.openflow.verbs import flow_verbs
from penstock.switch.control import Control
from penstock.switch.model import DesiredState
from penstock.switch.rundir import CONTROL_SOCKET
from penstock.switch.server import ControlServer
from penstock.switch.supervisor import NOTIFY_VARIABLE
from penstock.switch.verbs import streams, verbs


async def serve(
    rundir: Path,
    load_state: Callable[[], DesiredState],
    connect: Callable[[], EngineClient],
    beside: Callable[[Control], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Run a control process until a signal ends it, and what stands ``beside`` it: where the state comes from."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    control = Control(rundir, load_state, connect, _notifier(), Agent, awaits_source=beside is not None)
    agent = control.follower
    assert isinstance(agent, Agent)
    known = verbs(control) | flow_verbs(control, agent)
    server = ControlServer(rundir / CONTROL_SOCKET, known, streams(control))
    if beside is None:
        await control.run(server, stop)
        return
    task = asyncio.create_task(beside(control))
    task.add_done_callback(lambda _task: stop.set())
    try:
        await control.run(server, stop)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


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
