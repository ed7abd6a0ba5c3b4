"""A stream: what frames a generator sends, declared once; command line, its help and its error messages follow from it.

Each flow of a stream has its own addresses, ports and sequence numbers. The schedule goes through all flows in turn,
and each flow through all sizes. Sizes are those on a wire, with the 4 bytes of frame check sequence that no port sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from ipaddress import ip_address
from typing import Annotated, Literal, NamedTuple, TypeVar

from annotated_types import Interval

from penstock.ports.spec import Doc
from penstock.traffic.frames import FCS, Addresses, Frame, FrameKind
from penstock.traffic.layout import FLOWS_MAX, STAMP_BYTES
from penstock.traffic.values import (
    Range,
    Rate,
    parse_ip,
    parse_mac,
    parse_number,
    parse_range,
    parse_rate,
    parse_sizes,
)

T = TypeVar("T")

SCHEDULE_MAX = 1 << 17
MAC_MOST, IPV4_MOST, IPV6_MOST = (1 << 48) - 1, (1 << 32) - 1, (1 << 128) - 1


class StreamError(ValueError):
    """A stream cannot be: the text names the setting, the value and what would be right."""


class Scheduled(NamedTuple):
    """A frame of the schedule and the number of its flow within the stream."""

    flow: int
    frame: Frame


@dataclass(frozen=True)
class Stream:
    """What to send. A RANGE is FIRST, FIRST-LAST, FIRST-LAST/STEP or FIRST-LAST/random."""

    size: Annotated[
        str, Doc("Bytes of a frame, frame check sequence included: 64, a list, FIRST-LAST[/STEP], or imix (7:4:1).")
    ] = "64"
    rate: Annotated[str, Doc("max, or frames a second (20000, 1.5Mpps), or bits of frames a second (400Mbps).")] = "max"
    count: Annotated[int | None, Interval(ge=1), Doc("End after this many frames.")] = None
    seconds: Annotated[float | None, Interval(ge=0.001), Doc("End after this time.")] = None
    flows: Annotated[
        int | None, Interval(ge=1, le=SCHEDULE_MAX), Doc("How many flows; as many as the longest range if not given.")
    ] = None
    src_mac: Annotated[str, Doc("RANGE of source MAC addresses.")] = "02:00:00:00:01:00"
    dst_mac: Annotated[str, Doc("RANGE of destination MAC addresses.")] = "02:00:00:00:02:00"
    vlan: Annotated[str | None, Doc("RANGE of VLAN ids to tag frames with.")] = None
    src_ip: Annotated[str, Doc("RANGE of source IPv4 or IPv6 addresses.")] = "198.18.0.1"
    dst_ip: Annotated[str, Doc("RANGE of destination addresses.")] = "198.19.0.1"
    protocol: Annotated[Literal["udp", "tcp"], Doc("The layer above IP.")] = "udp"
    src_port: Annotated[str, Doc("RANGE of source ports.")] = "49152"
    dst_port: Annotated[str, Doc("RANGE of destination ports.")] = "7"
    gso_size: Annotated[
        int, Interval(ge=0, le=65_535), Doc("Payload bytes per segment of frames to be segmented by others; 0: none.")
    ] = 0
    checksum: Annotated[
        Literal["full", "offload"], Doc("Finished checksums, or left to the port (which must have the offload).")
    ] = "full"
    seed: Annotated[int, Doc("Of what is at random.")] = 1
    first_flow: Annotated[
        int, Interval(ge=0, le=FLOWS_MAX - 1), Doc("Number of the first flow, for several generators and one receiver.")
    ] = 0

    def __post_init__(self) -> None:
        """Check what only the texts together tell. Raises StreamError."""
        if self._is_ipv6("src_ip", self.src_ip) != self._is_ipv6("dst_ip", self.dst_ip):
            raise StreamError(f"src_ip '{self.src_ip}' and dst_ip '{self.dst_ip}' are not of one IP version")
        least = self.kind.payload_at + STAMP_BYTES + FCS
        for size in self.sizes:
            if size < least:
                raise StreamError(
                    f"size {size} is too small: headers, stamp and frame check sequence take {least} bytes"
                )
        if self.flow_count > SCHEDULE_MAX:
            raise StreamError(f"{self.flow_count} flows are too many: at most {SCHEDULE_MAX}; give 'flows'")
        if self.first_flow + self.flow_count > FLOWS_MAX:
            raise StreamError(f"first_flow {self.first_flow} and {self.flow_count} flows go beyond {FLOWS_MAX}")
        assert self.frame_rate is None or self.frame_rate.value > 0

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return self._parsed("size", lambda: parse_sizes(self.size))

    @cached_property
    def frame_rate(self) -> Rate | None:
        """None: as fast as the port takes them."""
        return self._parsed("rate", lambda: parse_rate(self.rate))

    @cached_property
    def kind(self) -> FrameKind:
        """What all frames have in common."""
        ipv6 = self._is_ipv6("src_ip", self.src_ip)
        offload = self.checksum == "offload" or self.gso_size > 0
        return FrameKind(ipv6, self.protocol == "tcp", self.vlan is not None, self.gso_size, offload)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        ip_most = IPV6_MOST if self.kind.ipv6 else IPV4_MOST
        found = {
            "src_mac": (self.src_mac, parse_mac, MAC_MOST),
            "dst_mac": (self.dst_mac, parse_mac, MAC_MOST),
            "src_ip": (self.src_ip, parse_ip, ip_most),
            "dst_ip": (self.dst_ip, parse_ip, ip_most),
            "src_port": (self.src_port, parse_number, 65_535),
            "dst_port": (self.dst_port, parse_number, 65_535),
            "vlan": (self.vlan or "0", parse_number, 4095),
        }
        return {name: self._parsed(name, partial(parse_range, *arguments)) for name, arguments in found.items()}

    @property
    def flow_count(self) -> int:
        return self.flows or max(len(each) for each in self.ranges.values() if each.step)

    @property
    def mean_size(self) -> float:
        return sum(self.sizes) / len(self.sizes)

    @property
    def frames_per_second(self) -> float | None:
        return self.frame_rate.frames_per_second(self.mean_size) if self.frame_rate else None

    def addresses(self) -> list[Addresses]:
        """Addresses, ports and VLAN of each flow."""
        chance = random.Random(self.seed)
        names = ("dst_mac", "src_mac", "vlan", "src_ip", "dst_ip", "src_port", "dst_port")
        return [
            Addresses(*(self.ranges[name].value(flow, chance) for name in names)) for flow in range(self.flow_count)
        ]

    def schedule(self) -> Iterator[Scheduled]:
        """The frames to send round and round: each flow in turn, and each flow all sizes, as far as there is room."""
        flows = self.addresses()
        rounds = min(len(self.sizes), SCHEDULE_MAX // len(flows))
        chance = random.Random(self.seed)
        picked = self.sizes if rounds == len(self.sizes) else chance.sample(self.sizes, rounds)
        for turn in range(rounds):
            for number, flow in enumerate(flows):
                size = picked[(turn + number) % rounds]
                yield Scheduled(number, self.kind.build(flow, size - FCS))

    def _is_ipv6(self, setting: str, text: str) -> bool:
        return self._parsed(setting, lambda: ip_address(text.partition("/")[0].partition("-")[0]).version == 6)

    def _parsed(self, setting: str, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except ValueError as error:
            raise StreamError(f"{setting}: {error}") from error
