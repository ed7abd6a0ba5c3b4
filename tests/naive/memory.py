"""Rings as Python's own containers: what the shared-memory ones must behave like when nobody else is about."""

from __future__ import annotations

from collections import deque


class NaiveRing:
    """A bounded queue of words."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[int] = deque()

    def push(self, value: int) -> int:
        if len(self.items) == self.capacity:
            return 0
        self.items.append(value)
        return 1

    def pop(self) -> int:
        return self.items.popleft() if self.items else 0


class NaiveRecordRing:
    """A queue of byte strings in ``size`` bytes, where a record is never split and costs 8 bytes and padding."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.records: deque[tuple[bytes, int]] = deque()
        self.used = 0
        self.at = 0  # where the next record begins
        self.lost = 0

    def write(self, data: bytes) -> bool:
        cost = 8 + (len(data) + 7) // 8 * 8
        skipped = self.size - self.at if self.at + cost > self.size else 0
        if self.used + skipped + cost > self.size:
            self.lost += 1
            return False
        self.at = (self.at + skipped + cost) % self.size
        self.used += skipped + cost
        self.records.append((data, skipped + cost))
        return True

    def peek(self) -> bytes | None:
        return self.records[0][0] if self.records else None

    def release(self) -> None:
        self.used -= self.records.popleft()[1]
