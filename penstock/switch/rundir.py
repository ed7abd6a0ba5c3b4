"""The run directory: where a switch keeps its sockets, its lock and what it tells about itself.

lock              held (flock) by the supervisor while it lives; holds its process id
engine.sock       the engine's message socket
control.sock      the control process's socket, for the command line
control.lock      held by the control process while it lives
supervisor.json   what runs and what died, written by the supervisor alone (`switch.status`)
accepted.json     the desired state last accepted, written by the control process; a restarted one goes on from it
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

LOCK = "lock"
CONTROL_SOCKET = "control.sock"
CONTROL_LOCK = "control.lock"
STATUS = "supervisor.json"
ACCEPTED = "accepted.json"


class RundirError(Exception):
    """The run directory cannot be used; the text says why and what to do."""


class AlreadyRunningError(RundirError):
    """Another process holds the lock of this run directory."""


def default_rundir() -> Path:
    """$PENSTOCK_RUNDIR, else /run/penstock for root, else penstock in the user's own runtime directory."""
    if named := os.environ.get("PENSTOCK_RUNDIR"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/penstock")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "penstock"
    raise RundirError("no run directory: XDG_RUNTIME_DIR is not set; give --rundir DIR or set PENSTOCK_RUNDIR")


def make_rundir(rundir: Path) -> None:
    """Make the directory (for this user only) or see that it can be written."""
    try:
        rundir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RundirError(
            f"run directory {rundir} cannot be made: {error.strerror}; choose one with --rundir"
        ) from error
    if not os.access(rundir, os.W_OK | os.X_OK):
        raise RundirError(
            f"run directory {rundir} is not writable by user {os.geteuid()}; choose another with --rundir"
        )
    # A UNIX socket's path holds at most 107 bytes, and the kernel's own message would not say so.
    longest = rundir / CONTROL_SOCKET
    if len(os.fsencode(longest)) > 107:
        raise RundirError(f"run directory {rundir} is too long: {longest} must have at most 107 bytes for a socket")


def take_lock(file: Path, what: str) -> int:
    """Lock `file` for this process's life and write its process id in; returns the descriptor to keep open.

    The descriptor is not inherited by children, who would otherwise hold the lock after this process has gone.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RundirError(f"{file} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        holder = read_pid(file)
        raise AlreadyRunningError(f"{what} already runs on {file.parent} (process {holder or 'unknown'})") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def lock_holder(file: Path) -> int | None:
    """The process id of who holds the lock, or None when nobody does."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RundirError(f"{file} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_pid(file)
    finally:
        os.close(descriptor)
    return None


def read_pid(file: Path) -> int | None:
    text = file.read_text(encoding="ascii").strip()
    return int(text) if text.isdigit() else None


def write_json(file: Path, value: Any) -> None:
    """Replace the file's content at one stroke, so that a reader sees the old or the new, never half of one."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.rename(file)
