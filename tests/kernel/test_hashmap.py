"""The map that one thread writes and workers read, beside a dict."""

from __future__ import annotations

import ctypes

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.datapath.hashmap import MAP, map_bytes, map_copy, map_get, map_init, map_put, map_slot
from penstock.machine import records

keys = st.one_of(st.integers(1, 40), st.integers(-(1 << 63), (1 << 63) - 1).filter(bool))
values = st.integers(1, (1 << 63) - 1)


class Maps(RuleBasedStateMachine):
    """Puts and looks up; grows when told to, as the writer does."""

    def __init__(self) -> None:
        super().__init__()
        self.twin: dict[int, int] = {}
        self.written: set[int] = set()
        self.entries = 2
        self._make()

    def _make(self) -> None:
        self.memory = ctypes.create_string_buffer(map_bytes(self.entries) + 64)
        self.map = -(-ctypes.addressof(self.memory) // 64) * 64
        map_init(self.map, self.entries)

    @rule(key=keys, value=values)
    def put(self, key: int, value: int) -> None:
        while not map_put(self.map, key, value):
            assert key not in self.written
            old, memory = self.map, self.memory
            self.entries *= 2
            self._make()
            assert map_copy(old, self.map) == len(self.twin)
            self.written = set(self.twin)
            assert memory is not None
        self.twin[key] = value
        self.written.add(key)

    @rule(key=keys)
    def take_out(self, key: int) -> None:
        if key in self.written:
            assert map_put(self.map, key, 0) == 1
        self.twin.pop(key, None)

    @rule(key=keys)
    def look_up(self, key: int) -> None:
        assert map_get(self.map, key) == self.twin.get(key, 0)
        assert self.map < map_slot.py_func(self.map, key) < self.map + map_bytes(self.entries)

    @invariant()
    def everything_is_there(self) -> None:
        assert all(map_get(self.map, key) == value for key, value in self.twin.items())
        assert int(records(MAP, self.map)[0]["count"]) == len(self.written)


TestMaps = Maps.TestCase
