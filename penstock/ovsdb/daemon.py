"""penstock-vswitchd: the switch under ovsdb-server, with the command line of ovs-vswitchd(8).

This process is what tools know: it has the pidfile and is told to end. The switch itself is another's, ``supervise``,
which goes on when this one is killed, and is taken over when it is started again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock.engine.log_file import log_to
from penstock.ovsdb.owner import Owner
from penstock.switch.rundir import RundirError

RUNDIR, LOGDIR = Path("/var/run/openvswitch"), Path("/var/log/openvswitch")
READY, TOLD_MAX = "ready", 4096
NAME = "ovs-vswitchd"  # under which tools look for the files of the daemon


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. What stands for nothing here is taken all the same, so that scripts need no change."""
    parser = argparse.ArgumentParser(prog="penstock-vswitchd", description=__doc__)
    parser.add_argument("database", nargs="?", help="where ovsdb-server is, unix:$OVS_RUNDIR/db.sock if not given")
    parser.add_argument("--pidfile", nargs="?", const="", help="write the process number to a file")
    parser.add_argument("--unixctl", help="the socket for ovs-appctl, or none; else it is named after the process")
    parser.add_argument("--overwrite-pidfile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--detach", action="store_true", help="run in the background, once it is up")
    parser.add_argument("--log-file", nargs="?", const="", help="write what is said to a file")
    for name in ("--no-chdir", "--monitor", "--mlockall", "--disable-system", "--no-self-confinement"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--enable-dummy", nargs="?", const="", help=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbose", nargs="?", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--syslog-method", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    """Run the switch; ends with the process."""
    arguments = arguments_of()
    rundir = Path(os.environ.get("OVS_RUNDIR", RUNDIR)).absolute()
    database = arguments.database or f"unix:{rundir / 'db.sock'}"
    pidfile = _file(arguments.pidfile, rundir, "pid")
    log = _file(arguments.log_file, Path(os.environ.get("OVS_LOGDIR", LOGDIR)), "log")
    front = _detach() if arguments.detach else None
    if log is not None:
        log_to(log)
    own = arguments.unixctl or f"{NAME}.{os.getpid()}.ctl"
    unixctl = None if own == "none" else rundir / own
    owner = None

    def ready() -> None:
        # Not before: the files of a daemon that runs in this directory already are not ours to touch.
        if pidfile is not None:
            _write_pidfile(pidfile)
        if front is not None:
            front.tell(READY)

    try:
        owner = Owner(rundir, database, unixctl)
        code = owner.run(ready)
    except (RundirError, OSError) as error:
        text = f"penstock-vswitchd: {error}"
        print(text, file=sys.stderr)
        if front is not None and (owner is None or not owner.has_been_ready):
            front.tell(text)
        code = 1
    if pidfile is not None and owner is not None and owner.has_been_ready:
        pidfile.unlink(missing_ok=True)
    sys.exit(code)


def _file(asked: str | None, directory: Path, suffix: str) -> Path | None:
    """The file that an option names; "": the daemon's own name in a directory."""
    if asked is None:
        return None
    return directory / (asked or f"{NAME}.{suffix}")


def _write_pidfile(path: Path) -> None:
    """Write the process's number, and hold a lock on the file for as long as it lives: tools ask for that."""
    made = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)  # it stays open
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    made.rename(path)


class Front:
    """The process in front, which waits to be told how the one in the background has started."""

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def tell(self, text: str) -> None:
        """READY, or what is wrong."""
        os.write(self._writer, text.encode())
        os.close(self._writer)


def _detach() -> Front:
    """Go on in a process in the background; the one in front ends when it is told how that has started."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        told = os.read(reader, TOLD_MAX).decode()
        if told != READY:
            lost = "penstock-vswitchd: it ended before it was ready; --log-file keeps what it says"
            print(told or lost, file=sys.stderr, flush=True)
        os._exit(0 if told == READY else 1)
    os.close(reader)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    return Front(writer)


if __name__ == "__main__":
    main()
