"""Entry of the control process of penstock-vswitchd: `python -m penstock.ovsdb --database REMOTE --rundir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from functools import partial
from pathlib import Path

from penstock.engine.client import EngineClient
from penstock.engine.log_file import reopen_at_signal
from penstock.openflow.process import serve
from penstock.ovsdb.appctl.commands import Switch
from penstock.ovsdb.appctl.server import Unixctl
from penstock.ovsdb.follow import Follower, Source
from penstock.switch.control import Control
from penstock.switch.rundir import RundirError, make_rundir
from penstock.switch.settings import EngineSettings


def main() -> int:
    """Run a control process that follows a database; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m penstock.ovsdb", description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--rundir", type=Path, required=True)
    parser.add_argument("--unixctl", type=Path, help="where ovs-appctl finds it")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s control: %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    reopen_at_signal()
    source = Source(arguments.rundir, EngineSettings())

    async def follow(control: Control) -> None:
        switch = Switch(control)
        follower = Follower(arguments.database, source, control)
        if arguments.unixctl is None:
            await follower.run()
            return
        unixctl = Unixctl(arguments.unixctl, switch)
        unixctl.start()
        try:
            await asyncio.gather(follower.run(), switch.coverage.run(), unixctl.failed)
        finally:
            await unixctl.stop()

    try:
        make_rundir(arguments.rundir)
        asyncio.run(serve(arguments.rundir, source.load, partial(EngineClient.connect, arguments.rundir), follow))
    except RundirError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
