"""The main thread's loop: descriptors that ports and the message socket watch, and things to do later.

Callbacks run one at a time on the thread that calls ``turn``; none may block for long.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Callback = Callable[[], None]


class Loop:
    """Watches descriptors for input, and keeps appointments."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()

    def close(self) -> None:
        """Let go of everything watched."""
        self._selector.close()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` has input or was closed by the other side, until ``unwatch``."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Watch a descriptor no more; before it is closed."""
        self._selector.unregister(fd)

    def later(self, seconds: float, callback: Callback) -> None:
        """Call ``callback`` once, in so many seconds."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), callback))

    def turn(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for something to do, and do it."""
        if self._due:
            timeout = min(timeout, max(0.0, self._due[0][0] - time.monotonic()))
        for key, _events in self._selector.select(timeout):
            # An earlier callback of this turn may have let go of it.
            if self._selector.get_map().get(key.fd) == key:
                key.data()
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
