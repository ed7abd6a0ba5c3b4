"""What is measured between two virtio guests, declared: the traffic of each case and what is asked of Penstock in it.

A guest is dpdk-testpmd with both virtio ports in one process on one CPU, the same for every switch. Frames keep their
addresses on the way through it, and every address stays on its port, so a learning switch sees stable addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.flow_rules import (
    attacked_frames,
    few_allowed,
    five_tuples,
    frames_of,
    many_masks,
    random_frames,
    victims_frames,
)
from bench.frames import Station, udp_frame, vxlan_frame

RULES = 1000
MAC_TABLE = 32768  # addresses that the switches may learn


@dataclass(frozen=True)
class Loop:
    """Frames that circle for ever: what one port receives leaves by the other as it is, back to where it came from."""

    frame_bytes: int  # without checksum


@dataclass(frozen=True)
class Replay:
    """64-byte frames, replayed for ever from memory to the first port; what the second receives is counted and dropped.

    The second port's stations send first, so that their addresses are known.
    """

    frames: int
    sources: int
    destinations: int
    from_second: bool = False  # replayed to the second port, in place of the first

    def forth(self) -> Iterator[bytes]:
        """From the source stations (numbered after the destinations), each with its destination."""
        return (
            udp_frame(self.destinations + index % self.sources, index % self.destinations)
            for index in range(self.frames)
        )

    def back(self) -> Iterator[bytes]:
        """One from each destination, to a source."""
        return (udp_frame(index, self.destinations) for index in range(self.destinations))

    @property
    def addresses(self) -> int:
        """How many a switch knows at least once all have sent: of a full table some places may stay free."""
        every = self.sources + self.destinations
        return every * 99 // 100 if every <= MAC_TABLE else MAC_TABLE * 3 // 4


@dataclass(frozen=True)
class Flows:
    """64-byte frames of as many flows, replayed to the first port of a bridge with these flow entries."""

    frames: int
    entries: Callable[[], list[str]]
    traffic: Callable[[int], Iterator[bytes]]
    destinations: int = 1  # frames that the guest has besides

    def forth(self) -> Iterator[bytes]:
        """The frames."""
        return self.traffic(self.frames)


HERE, THERE = Station("02:99:00:00:00:01", "10.99.0.1"), Station("02:99:00:00:00:02", "10.99.0.2")
UNDERLAY_BITS = 24
VNI = 5001


@dataclass(frozen=True)
class Tunneled:
    """One flow of a VM that leaves in a VXLAN tunnel, or comes by it (``arriving``); sizes are of the inner frame."""

    frame_bytes: int
    arriving: bool
    frames: int = 1000
    destinations: int = 1
    addresses: int = 2  # that the VM's bridge knows once both ends have sent

    @property
    def from_second(self) -> bool:
        """Whether it is the NIC's port that is replayed to."""
        return self.arriving

    def forth(self) -> Iterator[bytes]:
        """What is replayed to the port of the VM or, arriving, of the NIC."""
        return (self._frame(self.arriving) for _ in range(self.frames))

    def back(self) -> Iterator[bytes]:
        """One frame the other way, so that addresses are known."""
        return iter([self._frame(not self.arriving)])

    def _frame(self, arriving: bool) -> bytes:
        if arriving:
            return vxlan_frame(udp_frame(2, 1, self.frame_bytes), VNI, THERE, HERE)
        return udp_frame(1, 2, self.frame_bytes)


def _masks_24() -> list[str]:
    return [rule.text("output:2") for rule in many_masks(RULES)]


def _frames_24(count: int) -> Iterator[bytes]:
    return frames_of(many_masks(RULES), count)


@dataclass(frozen=True)
class Case:
    """One measurement. The demands are ratios to Open vSwitch with learned addresses; None demands nothing."""

    name: str
    title: str
    traffic: Loop | Replay | Flows | Tunneled
    rules: bool = False  # Open vSwitch also with a rule for each in_port, in place of learning
    faster: float | None = None  # throughput at least; only where Penstock's worker is the limit
    cheaper: float | None = None  # busy cycles per packet at most
    like: str | None = None  # a case that Penstock's figures are compared with
    within: float | None = None  # times that case's cycles at most
    keeps: float | None = None  # times that case's throughput at least


CASES = (
    Case("64", "64 B in a loop, 1 MAC pair", Loop(64), rules=True, faster=1.4, cheaper=0.5),
    Case("1518", "1,518 B in a loop, 1 MAC pair", Loop(1514), rules=True, faster=1.5),
    Case("1-pair", "64 B one way, 1 MAC pair", Replay(10_000, 1, 1)),
    Case("10000-pairs", "64 B one way, 10,000 MAC pairs", Replay(10_000, 10_000, 10_000), like="1-pair", within=1.5),
    Case("new-macs", "64 B one way, new MAC each", Replay(250_000, 250_000, 1), faster=50),
    Case("flows-1000", "1,000 rules on 24 masks, 1,000 flows", Flows(1000, _masks_24, _frames_24), cheaper=0.7),
    Case("flows-100000", "1,000 rules on 24 masks, 100,000 flows", Flows(100_000, _masks_24, _frames_24), cheaper=0.5),
    Case(
        "new-flows",
        "5-tuple rules, a new flow in each packet",
        Flows(1_500_000, lambda: five_tuples(RULES), random_frames),
        faster=50,
    ),
    Case("victims", "a few allowed by 4 fields, the rest dropped", Flows(1_600_000, few_allowed, victims_frames)),
    Case(
        "attacked",
        "the same, 1 frame in 32 an attacker's",
        Flows(1_600_000, few_allowed, attacked_frames),
        like="victims",
        keeps=0.8,
    ),
    Case("encapsulate", "128 B from a VM into VXLAN", Tunneled(124, arriving=False), cheaper=0.4),
    Case("decapsulate", "128 B out of VXLAN to a VM", Tunneled(124, arriving=True), cheaper=0.4),
)
