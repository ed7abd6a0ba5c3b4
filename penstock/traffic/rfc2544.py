"""RFC 2544 section 26.1: throughput is the highest rate at which a device loses no frame, searched for each frame size.

The search halves the interval between a rate that passed and one that did not until they are close. A trial sends a
fixed number of frames at a fixed rate and then counts what arrived. RFC 2544 asks for trials of 60 seconds; shorter
ones say less about a device that has a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from penstock.ports.spec import Doc
from penstock.traffic.histogram import Latency

SIZES = "64,128,256,512,1024,1280,1518"  # section 9.1, Ethernet
RATE_MIN = 1.0  # frames a second: a device that loses frames even then passes none
ATTEMPTS = 3  # at a trial that tells nothing of the device, the generator having been kept from its work
KEPT_UP = 0.99  # a trial counts only if the generator reached this part of its rate


@dataclass(frozen=True)
class Search:
    """How to search."""

    trial_seconds: Annotated[float, Interval(ge=0.01), Doc("How long each trial lasts.")] = 2.0
    resolution: Annotated[float, Interval(ge=0.0001, le=0.5), Doc("End when the rate is known to this part.")] = 0.01
    tolerance: Annotated[float, Interval(ge=0, le=0.5), Doc("Part of the frames that may be lost.")] = 0.0
    max_rate: Annotated[
        float | None, Interval(ge=1), Doc("Frames a second to begin with; what the port takes if not given.")
    ] = None


@dataclass(frozen=True)
class Outcome:
    """One trial: frames offered and lost, and whether the generator kept up with its rate."""

    offered: int
    lost: int
    kept_up: bool
    latency: Latency | None


@dataclass(frozen=True)
class Throughput:
    """What the search found for one size. ``limited`` by the generator: the device might do more."""

    size: int
    frames_per_second: float
    bits_per_second: float
    trials: int
    limited: bool
    latency: Latency | None


def passed(outcome: Outcome, tolerance: float) -> bool:
    """Whether a trial counts as without loss."""
    return outcome.kept_up and outcome.lost <= tolerance * outcome.offered


def search(trial: Callable[[float], Outcome], highest: float, size: int, how: Search) -> Throughput:
    """The highest rate that passes, tried from ``highest`` downward; 0 when none does."""
    low, high = 0.0, highest
    best: Outcome | None = None
    limited = False
    rate, trials = highest, 0
    while True:
        for _ in range(ATTEMPTS):
            outcome = trial(rate)
            trials += 1
            if outcome.kept_up or outcome.lost > how.tolerance * outcome.offered:
                break
        if passed(outcome, how.tolerance):
            low, best = rate, outcome
        else:
            high = rate
            limited = not outcome.kept_up and outcome.lost <= how.tolerance * outcome.offered
        if high - low <= how.resolution * high or high < RATE_MIN:
            break
        rate = (low + high) / 2
    limited = limited or low == highest
    return Throughput(size, low, low * 8 * size, trials, limited, best.latency if best else None)
