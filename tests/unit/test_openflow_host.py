"""When a barrier is answered: every worker has begun a turn since, and has taken every packet-out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from penstock.datapath.layout import RUNNING, SLEEPING, WORKER
from penstock.engine.client import EngineGone
from penstock.openflow.host import BridgeHost
from penstock.ports.spec import BridgeSpec
from penstock.switch.engine_link import EngineLink
from tests.unit.openflow_support import FakeHost

SHORT = 0.05  # seconds in which nothing happens that must not


def nothing() -> EngineLink:
    def connect() -> None:
        raise EngineGone("there is none")

    return EngineLink(connect)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["turn", "sleep", "packet-outs", "another engine"])
def test_a_barrier_waits(tmp_path: Path, what: str) -> None:
    fake = FakeHost()
    workers = np.zeros(2, dtype=WORKER)
    workers["state"] = RUNNING
    outs = [0, 0]  # written, sent
    fake.region.set_workers(workers)

    async def run() -> None:
        host = BridgeHost(
            BridgeSpec("br0"), nothing(), fake.region, fake.tables, tmp_path, 10**9, lambda: (outs[0], outs[1]), {}
        )
        if what in ("packet-outs", "another engine"):
            workers["state"] = SLEEPING
            outs[0] = 100
        waiting = asyncio.create_task(host.quiet())
        await asyncio.sleep(SHORT)
        assert not waiting.done()
        workers["turns"][0] += 1
        await asyncio.sleep(SHORT)
        assert not waiting.done(), "the other has not"
        if what == "turn":
            workers["turns"][1] += 1
        elif what == "sleep":
            workers["state"][1] = SLEEPING
        elif what == "packet-outs":
            outs[1] = 100
        else:
            outs[0] = 0
        await asyncio.wait_for(waiting, 1)
        await host.close()

    try:
        asyncio.run(run())
    finally:
        fake.region.set_workers(())
        fake.close()
