"""Texts of a stream's declaration: ranges of MAC and IP addresses, ports and VLANs, frame sizes, rates.

A range is `FIRST`, `FIRST-LAST`, `FIRST-LAST/STEP` or `FIRST-LAST/random`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(pps|bps|bit/s|b/s)?")
FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
SIZE_MAX = 14 + 65_535 + 4  # the largest IP packet, with its Ethernet header and frame check sequence
IMIX = (64,) * 7 + (594,) * 4 + (1518,)


@dataclass(frozen=True)
class Range:
    """Numbers from ``first`` to ``last``; ``step`` 0: at random among them."""

    first: int
    last: int
    step: int = 1

    def __len__(self) -> int:
        return (self.last - self.first) // (self.step or 1) + 1

    def value(self, index: int, chance: random.Random) -> int:
        """The value for the flow of this number; ranges begin again after their end."""
        if self.step == 0:
            return chance.randint(self.first, self.last)
        return self.first + index % len(self) * self.step


@dataclass(frozen=True)
class Rate:
    """Frames or bits a second; ``bits`` of frames with their frame check sequence."""

    value: float
    bits: bool = False

    def frames_per_second(self, mean_size: float) -> float:
        return self.value / (8 * mean_size) if self.bits else self.value


def parse_mac(text: str) -> int:
    """ "02:00:00:00:00:01" as a number."""
    if not MAC.fullmatch(text):
        raise ValueError(f"'{text}' is no MAC address: must be like 02:00:00:00:00:01")
    return int(text.replace(":", ""), 16)


def parse_ip(text: str) -> int:
    """An IPv4 or IPv6 address as a number."""
    return int(ip_address(text))


def parse_number(text: str) -> int:
    """Digits."""
    if not text.isdecimal():
        raise ValueError(f"'{text}' is not a number")
    return int(text)


def parse_range(text: str, parse: Callable[[str], int], most: int) -> Range:
    """A range of values that ``parse`` reads, none above ``most``. Raises ValueError."""
    span, _, step = text.partition("/")
    low, dash, high = span.partition("-")
    first = parse(low.strip())
    last = parse(high.strip()) if dash else first
    if last < first:
        raise ValueError(f"'{text}' ends before it begins")
    if last > most:
        raise ValueError(f"'{text}' goes beyond {most}")
    if step == "random":
        return Range(first, last, 0)
    width = parse_number(step) if step else 1
    if width < 1:
        raise ValueError(f"'{text}': a step is 1 or more, or 'random'")
    return Range(first, last, width)


def parse_sizes(text: str) -> tuple[int, ...]:
    """ "64", "64,512,1518", "64-1518", "64-1518/10" or "imix", each as the sizes to go through in turn."""
    if text.lower() == "imix":
        return IMIX
    sizes: list[int] = []
    for part in text.split(","):
        span = parse_range(part.strip(), parse_number, SIZE_MAX)
        if span.step == 0:
            raise ValueError(f"'{part}': sizes at random are not known; list them")
        sizes += range(span.first, span.last + 1, span.step)
    return tuple(sizes)


def parse_rate(text: str) -> Rate | None:
    """ "max" (None), "20000", "1.5Mpps", "10Gbps". Raises ValueError."""
    if text == "max":
        return None
    found = RATE.fullmatch(text.strip())
    if not found or float(found[1]) == 0:
        raise ValueError(f"rate '{text}' is not known: must be like max, 20000, 1.5Mpps or 400Mbps")
    return Rate(float(found[1]) * FACTORS[found[2]], found[3] not in (None, "pps"))
