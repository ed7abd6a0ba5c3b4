"""The benchmarks' judgement, and what they prepare; the measurements themselves are `make bench-peers`."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from bench.frames import write_pcap
from bench.outcome import Spread, ratios
from bench.vhost import Sample
from bench.vhost_cases import MAC_TABLE, Case, Loop, Replay
from bench.vhost_report import by_switch, unmet
from penstock.peers.huge_pages import HugePageError, huge_pages


def samples(mpps: float, cycles: float, load: float = 0.99) -> list[Sample]:
    return [Sample(mpps * 1e6 * drift, cycles * drift, load, 100.0) for drift in (0.5, 1.0, 2.0)]


def judge(case: Case, penstock: list[Sample], ovs: list[Sample], **others: list[Sample]) -> list[str]:
    measured = {case.name: {"penstock": penstock, "open vswitch": ovs}} | {
        n: {"penstock": s} for n, s in others.items()
    }
    return unmet(case, {name: by_switch(each) for name, each in measured.items()}, measured)


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == Spread(2.0, 1.0, 3.0)


def test_demands_are_judged_by_the_ratios() -> None:
    case = Case("c", "a case", Loop(64), faster=1.4, cheaper=0.5)
    assert judge(case, samples(15, 100), samples(10, 200)) == []
    slow, dear = judge(case, samples(13, 101), samples(10, 200))
    assert slow == "a case: throughput 1.30 times Open vSwitch's, must be at least 1.4"
    assert dear == "a case: cycles 0.51 times Open vSwitch's, must be at most 0.5"


def test_throughput_is_not_asked_for_where_the_guest_is_the_limit() -> None:
    case = Case("c", "a case", Loop(64), faster=1.4)
    assert judge(case, samples(13, 100, load=0.8), samples(10, 200)) == []


def test_a_case_is_compared_with_another() -> None:
    case = Case("many", "many pairs", Loop(64), like="one", within=1.5)
    assert judge(case, samples(10, 150), samples(10, 200), one=samples(10, 100)) == []
    assert judge(case, samples(10, 160), samples(10, 200), one=samples(10, 100)) == [
        "many pairs: cycles 1.60 times those of case one, must be at most 1.5"
    ]


def test_a_replay_is_frames_between_its_stations(tmp_path: Path) -> None:
    replay = Replay(frames=6, sources=3, destinations=2)
    for name, frames in (("forth", replay.forth()), ("back", replay.back())):
        write_pcap(tmp_path / name, frames)
    forth, back = rdpcap(str(tmp_path / "forth")), rdpcap(str(tmp_path / "back"))
    assert [len(frame) for frame in forth] == [64] * 6
    assert len({frame[Ether].src for frame in forth}) == 3
    assert {frame[Ether].dst for frame in forth} == {frame[Ether].src for frame in back}
    assert {frame[Ether].dst for frame in back} <= {frame[Ether].src for frame in forth}
    assert all(UDP in frame and frame[IP].len == 50 for frame in forth)
    assert Replay(frames=200, sources=100, destinations=100).addresses == 198
    assert Replay(MAC_TABLE, MAC_TABLE, 1).addresses < MAC_TABLE


@pytest.mark.root
def test_huge_pages_that_memory_has_no_room_for_are_refused() -> None:
    pages = Path("/proc/sys/vm/nr_hugepages")
    if not pages.exists():
        pytest.skip("this kernel has no huge pages")
    before = pages.read_text()
    with pytest.raises(HugePageError, match="1000000000 MB of huge pages are needed"), huge_pages(1_000_000_000):
        pass
    assert pages.read_text() == before
