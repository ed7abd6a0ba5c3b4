"""``python -m penstock.engine``: the engine process. Started and restarted by the supervisor."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from penstock.engine.engine import Engine
from penstock.engine.log_file import reopen_at_signal
from penstock.engine.server import Server
from penstock.engine.warm import warm
from penstock.machine import cache_is_warm
from penstock.memory import ArenaError


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="penstock.engine", description=__doc__)
    parser.add_argument("--rundir", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus", type=lambda text: [int(cpu) for cpu in text.split(",")], default=[])
    parser.add_argument("--poll", choices=("adaptive", "busy"), default="adaptive")
    parser.add_argument("--no-huge-pages", dest="huge_pages", action="store_false")
    options = parser.parse_args()
    logging.basicConfig(format="penstock engine: %(message)s", level=logging.INFO, stream=sys.stderr)
    if cache_is_warm():
        warm(lambda _done, _total, _name: None)
    else:
        warm(lambda done, total, name: logging.info("compiled %d of %d %s", done, total, name))
    try:
        engine = Engine(options.workers, options.cpus, options.poll, options.huge_pages)
    except ArenaError as error:
        logging.error("%s", error)
        return 1
    server = Server(engine, options.rundir)
    reopen_at_signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: server.stop())
    server.serve()
    engine.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
