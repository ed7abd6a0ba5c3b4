"""A forwarding database as a dictionary: (VLAN and MAC address) to port and the second when it was last seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Entry:
    port: int
    second: int
    static: bool = False


class NaiveFdb:
    """Unbounded: the caller keeps within limits, or looks only at what the table may not do."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def learn(self, key: int, port: int, now: int) -> None:
        entry = self.entries.get(key)
        if entry is None or not entry.static:
            self.entries[key] = Entry(port, now)

    def add_static(self, key: int, port: int, now: int) -> None:
        self.entries[key] = Entry(port, now, True)

    def lookup(self, key: int) -> int | None:
        entry = self.entries.get(key)
        return None if entry is None else entry.port

    def expire(self, before: int, port: int) -> int:
        gone = [
            key
            for key, entry in self.entries.items()
            if not entry.static and entry.second < before and port in (-1, entry.port)
        ]
        for key in gone:
            del self.entries[key]
        return len(gone)
