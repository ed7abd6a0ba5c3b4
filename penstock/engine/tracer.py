"""Traces one frame through the workers' own compiled stages, in a private context that learns and sends nothing.

The context reads the live tables in the arena; its packets, outputs and clones are in this process's memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.datapath.drops import REASONS
from penstock.datapath.layout import HEADROOM, MAX_WORKERS, PACKET, WORKER_BYTES
from penstock.datapath.trace import DROPPED, EVENTS, SENT, STEPS, TRACE
from penstock.datapath.worker import end_trace, trace_packet
from penstock.engine.context import cache_bytes, make_clone_pool, make_exec, make_worker
from penstock.engine.results import TraceOutput, TraceResult
from penstock.machine import load64, records
from penstock.packet.fields import KEY_SIZE, describe

FRAME_LIMIT = 65535
ALIGN = 64


@dataclass(frozen=True)
class Speller:
    """How flows and operations, of which a trace has addresses, are told."""

    flow: Callable[[int], str]
    operation: Callable[[int], str]


class Tracer:
    """A context for traces over the tables at the given addresses."""

    def __init__(self, ports: int, bridges: int, cycles_hz: int, arrivals: Callable[[], int]) -> None:
        self._memory: list[Any] = []
        self._trace = self._allocate(TRACE.itemsize)
        self._worker = self._allocate(WORKER_BYTES)
        self._buffer = self._allocate(HEADROOM + FRAME_LIMIT)
        row = make_worker(self._allocate, self._worker, MAX_WORKERS, make_clone_pool(self._allocate, 1))
        row["ports"], row["bridges"], row["cycles_hz"] = ports, bridges, cycles_hz
        row["trace"] = self._trace
        row["exec"] = make_exec(self._allocate, MAX_WORKERS, self._allocate(cache_bytes(1)), 1)
        self._row = row
        self._arrivals = arrivals
        self._packet = int(load64(int(row["burst"])))

    def _allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size + ALIGN)
        self._memory.append(block)
        return -(-ctypes.addressof(block) // ALIGN) * ALIGN

    def trace(
        self, number: int, frame: bytes, names: Mapping[int, str], punt: bool, speller: Speller | None = None
    ) -> TraceResult:
        """Trace ``frame`` as received by port ``number``; ``names`` spells numbers out, ``punt`` is the workers'."""
        speller = speller or Speller(hex, hex)
        self._row["punt"] = int(punt)
        self._row["arrivals"] = self._arrivals()
        if not 1 <= len(frame) <= FRAME_LIMIT:
            raise ValueError(f"a frame to trace has 1 to {FRAME_LIMIT} bytes, not {len(frame)}")
        records(TRACE, self._trace)[0]["count"] = 0
        ctypes.memmove(self._buffer + HEADROOM, frame, len(frame))
        packet = records(PACKET, self._packet)[0]
        key = int(packet["key"])
        for name in (
            "tail",
            "tail_len",
            "frags",
            "flags",
            "gso_type",
            "gso_size",
            "csum_start",
            "csum_offset",
            "depth",
            "remote",
        ):
            packet[name] = 0
        packet["head"], packet["head_len"], packet["headroom"] = self._buffer + HEADROOM, len(frame), HEADROOM
        trace_packet(self._worker, number, self._packet)
        result = TraceResult([], describe(ctypes.string_at(key, KEY_SIZE)))
        drop = None
        for step in range(int(records(TRACE, self._trace)[0]["count"])):
            event, a, b = (int(load64(self._trace + STEPS + step * 24 + 8 * word)) for word in range(3))
            if event == SENT:
                result.outputs.append(TraceOutput(names.get(a, str(a)), self._bytes(b)))
            if event == DROPPED:
                drop = REASONS[b].name
            result.steps.append(_sentence(event, a, b, names, speller))
        end_trace(self._worker)
        return TraceResult(result.steps, result.fields, result.outputs, drop)

    def _bytes(self, packet: int) -> bytes:
        row = records(PACKET, packet)[0]
        head = ctypes.string_at(int(row["head"]), int(row["head_len"]))
        return head + ctypes.string_at(int(row["tail"]), int(row["tail_len"]))


def _sentence(event: int, a: int, b: int, names: Mapping[int, str], speller: Speller) -> str:
    kind = EVENTS[event]
    shown: dict[str, Any] = {"a": a, "b": b}
    for operand in kind.ports:
        shown[operand] = f"'{names.get(shown[operand], shown[operand])}'"
    for operand in kind.reasons:
        reason = REASONS[shown[operand]]
        shown[operand] = f"{reason.name}: {reason.text}"
    for operand in kind.flows:
        shown[operand] = speller.flow(shown[operand])
    for operand in kind.operations:
        shown[operand] = speller.operation(shown[operand])
    return kind.text.format(**shown)
