"""``python -m penstock.ovsdb.supervise``: the supervisor of a switch under a database. It belongs to penstock-vswitchd,
which starts it, and outlives one that is killed: see ``ownership``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from penstock.ovsdb.ownership import ORPHAN_SECONDS, Ownership
from penstock.switch.rundir import RundirError
from penstock.switch.settings import EngineSettings
from penstock.switch.supervisor import Supervisor, engine_command


def control_command(rundir: Path, database: str, unixctl: Path | None) -> list[str]:
    """How the control process is started."""
    command = [sys.executable, "-m", "penstock.ovsdb", "--rundir", str(rundir), "--database", database]
    return [*command, "--unixctl", str(unixctl)] if unixctl is not None else command


def main() -> int:
    """Supervise until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="penstock.ovsdb.supervise", description=__doc__)
    parser.add_argument("--rundir", type=Path, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--identity", required=True, help="a daemon with another one does not take this switch over")
    parser.add_argument("--unixctl", type=Path)
    parser.add_argument("--errors", type=int, required=True, help="a descriptor to tell why it cannot begin")
    parser.add_argument("--patience", type=float, default=ORPHAN_SECONDS, help="seconds without a daemon till the end")
    options = parser.parse_args()
    engine = engine_command(options.rundir, EngineSettings())
    control = control_command(options.rundir, options.database, options.unixctl)
    supervisor = Supervisor(options.rundir, Path(options.database), engine, control)
    ownership = Ownership(supervisor, options.identity, options.unixctl, options.patience)
    supervisor.on_start = ownership.listen
    supervisor.on_ready = ownership.tell_ready
    supervisor.on_reopen = ownership.reopen_log
    try:
        code = supervisor.run()
    except (RundirError, OSError) as error:
        os.write(options.errors, str(error).encode())
        code = 1
    ownership.end(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
