"""What the workers' flow caches hold of a pipeline: which packets, and by which flows each of them goes.

The caches are in memory of the engine's own, so its main thread reads them. Workers go on writing meanwhile: a place
that changes while it is read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from penstock.datapath.pipeline.layout import (
    CACHE_STEPS,
    CACHE_WAYS,
    CACHED,
    KEY_WORDS,
    LINE,
    PIPELINE,
    REGION_BASE,
    STEP_ID,
    STEP_TABLE,
)
from penstock.machine import records
from penstock.packet.fields import KEY_SIZE

WORD = np.dtype("i8")
WAYS_MAX = 10_000  # a reply has its limits, and the main thread other work


@dataclass(frozen=True)
class CachedWay:
    """Packets whose key is ``key`` under ``mask``, and for each lookup table and address of the flow; 0: a miss."""

    worker: int
    key: bytes
    mask: bytes
    steps: tuple[tuple[int, int], ...]

    def to_json(self) -> list[Any]:
        return [self.worker, self.key.hex(), self.mask.hex(), self.steps]

    @classmethod
    def from_json(cls, data: list[Any]) -> CachedWay:
        worker, key, mask, steps = data
        return cls(worker, bytes.fromhex(key), bytes.fromhex(mask), tuple((table, flow) for table, flow in steps))


def cached_ways(caches: Sequence[Any], pipeline: int) -> tuple[int, list[CachedWay]]:
    """The version of the pipeline at that address, and what the EXECs' caches hold of it that is of this version.

    WAYS_MAX of them at most.
    """
    row = records(PIPELINE, pipeline)[0]
    version = int(row["version"])
    words = records(KEY_WORDS, int(row["words"]))[0].copy()
    found = (
        _way(worker, each, words)
        for worker, cache in enumerate(caches)
        for each in _current(cache, pipeline, version, int(words["serial"]))
    )
    return version, list(islice(found, WAYS_MAX))


def _current(cache: Any, pipeline: int, version: int, serial: int) -> Iterator[Any]:
    """The CACHEDs of a worker that are of this pipeline and version."""
    places = (int(cache["set_mask"]) + 1) * CACHE_WAYS
    tags = records(WORD, int(cache["tags"]), places)
    rows = records(CACHED, int(cache["cached"]), places)
    used = np.flatnonzero(tags)
    mine = rows["pipeline"][used] == pipeline
    for place in used[mine & (rows["version"][used] == version) & (rows["serial"][used] == serial)]:
        found = rows[place].copy()
        if rows[place] == found and found["version"] == version:
            yield found


def _way(worker: int, found: Any, words: Any) -> CachedWay:
    key, mask = bytearray(KEY_SIZE), bytearray(KEY_SIZE)
    for index in range(int(words["count"])):
        at = int(words["words"][index]["offset"])
        mask[at : at + 8] = int(words["words"][index]["mask"]).to_bytes(8, "little", signed=True)
        key[at : at + 8] = int(found["words"][index]).to_bytes(8, "little", signed=True)
    steps = [*found["steps"].tolist(), *found["more_steps"].tolist()][: min(int(found["count"]), CACHE_STEPS)]
    return CachedWay(worker, bytes(key), bytes(mask), tuple(map(_step, steps)))


def _step(step: int) -> tuple[int, int]:
    """Table and address of the flow."""
    flow = step & ((1 << STEP_ID) - 1)
    return step >> STEP_TABLE & 0xFF, REGION_BASE + flow * LINE if flow else 0
