"""The file that the processes of a switch write to what they say, and its change when logs are rotated (logrotate(8)).

Who has such a file opens it as its standard output and error, which all that it starts inherit, and names it in
$PENSTOCK_LOG. Each process opens it again at SIGUSR1, which those that have not asked for it ignore.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "PENSTOCK_LOG"
SIGNAL = signal.SIGUSR1


def log_to(path: Path) -> None:
    """Have this process, and those that it starts from now on, write to a file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _open(path)
    os.environ[VARIABLE] = str(path)


def reopen_log() -> bool:
    """Open the file anew, which is made if it was moved away; False when there is none. Raises OSError."""
    name = os.environ.get(VARIABLE)
    if name is None:
        return False
    _open(Path(name))
    return True


def reopen_at_signal() -> None:
    """Open the file anew now, as the signal may have come already, and whenever it comes. In the main thread."""
    signal.signal(SIGNAL, lambda _number, _frame: reopen_log())
    reopen_log()


def ignore_signal() -> None:
    """Have a process that is about to be started ignore the signal until it asks for it."""
    signal.signal(SIGNAL, signal.SIG_IGN)


def _open(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
