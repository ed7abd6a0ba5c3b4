"""Ends of processes: having one end, and being told to end oneself."""

from __future__ import annotations

import os
import select
import signal
import socket

END = {signal.SIGTERM, signal.SIGINT}


def end_process(pid: int, seconds: float) -> bool:
    """Send SIGTERM and wait for the end; False if there is no such process. Raises PermissionError or TimeoutError."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], seconds)[0]:
            raise TimeoutError(f"process {pid} has not ended within {seconds:g} s")
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def catch_signals() -> socket.socket:
    """A socket that becomes readable when a signal comes: ask ``is_end`` then."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach())
    for number in END:
        signal.signal(number, lambda _number, _frame: None)
    return ours


def is_end(signals: socket.socket) -> bool:
    """Whether one of the signals that have come is to end this process."""
    return not END.isdisjoint(signals.recv(64))
