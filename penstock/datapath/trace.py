"""What a worker's code did with one packet, step by step: written by the very kernels that forward, read by
``penstock trace``.

A context that only explains has the address of a TRACE in ``WORKER.trace``; live workers have 0 there, and a step
costs them one predicted branch. Each step is an event number and two operands; ``EVENTS`` gives the sentence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock.machine import kernel, offset, store64, view

STEPS_MAX = 3 * 4096 + 64  # a flood over every port there can be
TRACE = np.dtype([("count", "i8"), ("steps", "i8", 3 * STEPS_MAX)], align=True)
STEPS = offset(TRACE, "steps")

trace_at = view(TRACE)


class Event(NamedTuple):
    """A kind of step: ``text`` has operands ``a`` and ``b``; the rest say which are such numbers or addresses."""

    text: str
    ports: str = ""
    reasons: str = ""
    flows: str = ""
    operations: str = ""


EVENTS: tuple[Event, ...] = (
    Event("received on port {a}", ports="a"),
    Event("belongs to VLAN {a}"),
    Event("source address is known on port {a}", ports="a"),
    Event("source address is unknown or moved: would be learned on port {a}", ports="a"),
    Event("destination address is known on port {a}", ports="a"),
    Event("destination address is unknown: flood"),
    Event("destination is a group address: flood"),
    Event("output to port {a}, untagged", ports="a"),
    Event("output to port {a}, tagged with VLAN {b}", ports="a"),
    Event("crosses the patch to port {a}", ports="a"),
    Event("dropped at port {a}: {b}", ports="a", reasons="b"),
    Event("software splits it into {b} segments for port {a}", ports="a"),
    Event("software finishes the checksum for port {a}", ports="a"),
    Event("leaves by port {a}", ports="a"),
    Event("would go to the control process as a packet-in from port {a}", ports="a"),
    Event("output to port {a}", ports="a"),
    Event("table {a}: {b}", flows="b"),
    Event("table {a}: no flow matches"),
    Event("resubmitted to table {a}"),
    Event("{b}", operations="b"),
    Event("group {a}, bucket {b}"),
    Event("action set"),
    Event("packed into the tunnel of port {a}: {b} bytes of header", ports="a"),
    Event("unpacked: came by the tunnel of port {a}", ports="a"),
    Event("waits for the far end of the tunnel of port {a} to be found", ports="a"),
    Event("copied to far end {b} of port {a}", ports="a"),
)
(
    RECEIVED,
    IN_VLAN,
    SOURCE_KNOWN,
    SOURCE_NEW,
    DESTINATION_KNOWN,
    DESTINATION_UNKNOWN,
    DESTINATION_GROUP,
    OUTPUT_UNTAGGED,
    OUTPUT_TAGGED,
    CROSSES_PATCH,
    DROPPED,
    SEGMENTED,
    CHECKSUMMED,
    SENT,
    PUNTED,
    OUTPUT,
    FLOW_MATCH,
    FLOW_MISS,
    RESUBMITTED,
    OPERATION,
    GROUP_BUCKET,
    ACTION_SET,
    ENCAPSULATED,
    DECAPSULATED,
    AWAITS_ENDPOINT,
    REPLICATED,
) = range(len(EVENTS))


@kernel
def note(trace, event, a, b):
    """Add a step; steps past the last are not kept."""
    t = trace_at(trace)
    if t.count < STEPS_MAX:
        step = trace + STEPS + t.count * 24
        store64(step, event)
        store64(step + 8, a)
        store64(step + 16, b)
        t.count += 1
    return 0
