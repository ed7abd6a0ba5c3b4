"""Entry of the control process: `python -m penstock.switch --config FILE --rundir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from penstock.config.load import load
from penstock.engine.client import EngineClient
from penstock.openflow.process import serve
from penstock.switch.errors import SourceError
from penstock.switch.rundir import RundirError, make_rundir
from penstock.switch.supervisor import EXIT_CONFIG


def main(connect: Callable[[Path], EngineClient]) -> int:
    """Run a control process on the engine that `connect` reaches; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m penstock.switch", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rundir", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s control: %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        make_rundir(arguments.rundir)
        asyncio.run(serve(arguments.rundir, partial(load, arguments.config), partial(connect, arguments.rundir)))
    except SourceError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except RundirError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(EngineClient.connect))
