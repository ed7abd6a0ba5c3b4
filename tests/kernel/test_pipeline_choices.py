"""Choices by hashes: links, members of bundles, buckets; and what is asked of the control process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel.compiled import compiled
from kernel.pipeline_support import PORTS, Bench, bit, match, operation
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from penstock.datapath.pipeline import choices
from penstock.datapath.pipeline import program as p
from penstock.datapath.pipeline.asking import REASON_FIN_TIMEOUT, REASON_LEARN
from penstock.datapath.pipeline.layout import GROUP_SELECT
from penstock.datapath.pipeline.outputs import NO_FWD, NO_RECV, OFPPC_PORT_DOWN
from penstock.engine.frames import PacketIn, read_packet_ins
from penstock.machine import hash64
from penstock.packet.fields import BY_NAME

FLOWS = 600
DOWN = OFPPC_PORT_DOWN | NO_RECV | NO_FWD
ALGORITHMS = (p.LINK_MODULO, p.LINK_THRESHOLD, p.LINK_HIGHEST_RANDOM_WEIGHT, p.LINK_ITERATIVE)
choose_link_kernel = choices.choose_link


def _choose_link(value, links, algorithm):  # type: ignore[no-untyped-def]
    return choose_link_kernel(value, links, algorithm)


choose_link: Callable[[int, int, int], int] = compiled(_choose_link, 3)


def naive_link(value: int, links: int, algorithm: int) -> int:
    """ovs-actions(7), "multipath", on the hash that the kernel makes of what it is given."""
    value = hash64(value)
    if algorithm == p.LINK_MODULO:
        return value // 2 % links
    if algorithm == p.LINK_THRESHOLD:
        return (value // 2**31) * links // 2**32
    if algorithm == p.LINK_HIGHEST_RANDOM_WEIGHT:
        return max(range(links), key=lambda link: (hash64(value ^ link) // 2**32, -link))
    bits = (links - 1).bit_length()
    for _ in range(64):
        if value % 2**bits < links:
            return value % 2**bits
        value = hash64(value + 1)
    return 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from(ALGORITHMS))
def test_links_are_those_of_the_twin(value: int, links: int, algorithm: int) -> None:
    assert choose_link(value, links, algorithm) == naive_link(value, links, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("links", [2, 3, 7])
def test_links_share_flows_evenly(links: int, algorithm: int) -> None:
    shares = Counter(choose_link(value, links, algorithm) for value in range(links * 2000))
    assert set(shares) == set(range(links))
    # Six standard deviations of a fair choice.
    assert all(abs(count - 2000) < 6 * 2000**0.5 for count in shares.values())


@pytest.mark.parametrize("algorithm", [p.LINK_HIGHEST_RANDOM_WEIGHT, p.LINK_ITERATIVE])
def test_a_further_link_takes_flows_from_the_others_and_moves_none_among_them(algorithm: int) -> None:
    for value in range(3000):
        # Of the iterative one that holds within a power of two.
        before, after = choose_link(value, 6, algorithm), choose_link(value, 7, algorithm)
        assert after in (before, 6) or (algorithm == p.LINK_ITERATIVE and before < 6)
    moved = sum(choose_link(value, 6, algorithm) != choose_link(value, 7, algorithm) for value in range(3000))
    assert moved < 3000 * 0.25


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


@pytest.fixture
def fresh(bench: Bench) -> Iterator[Bench]:
    bench.new_tables()
    yield bench
    for name in PORTS:
        bench.engine.set_port_config(name, 0)


def udp(number: int, back: bool = False) -> bytes:
    """A packet of a flow, or of its answers."""
    ends = [(f"10.0.{number >> 8}.{number & 255}", 1000 + number), ("10.9.9.9", 53)]
    (source, sport), (destination, dport) = reversed(ends) if back else ends
    macs = ("02:00:00:00:00:02", "02:00:00:00:00:01") if back else ("02:00:00:00:00:01", "02:00:00:00:00:02")
    return bytes(Ether(src=macs[0], dst=macs[1]) / IP(src=source, dst=destination) / UDP(sport=sport, dport=dport))


def places(bench: Bench, count: int = FLOWS, back: bool = False) -> dict[int, str]:
    """By which port each flow leaves: the frames of one port are told apart by their ports."""
    frames = {udp(number, back): number for number in range(count)}
    found: dict[int, str] = {}
    waiting = list(frames)
    while waiting:
        for name, got in bench.send("a", *waiting[:32]).items():
            for data in got:
                assert frames[data] not in found
                found[frames[data]] = name
        waiting = waiting[32:]
    return found


def multipath(fields: int, algorithm: int, links: int) -> list[int]:
    start = bit("reg0")
    words = (fields, 7, algorithm, start, 32)
    return [*operation(p.MULTIPATH, p.SET_NOTHING, links, words), *operation(p.RESUBMIT, 1)]


def test_a_multipath_is_the_same_for_a_flow_and_its_answers(fresh: Bench) -> None:
    _, mask = match(eth_src=0, eth_dst=0, eth_type=0, nw_proto=0, ip_src=0, ip_dst=0, tcp_src=0, tcp_dst=0)
    fresh.tables.masks.reads(mask)  # ways in the flow cache depend on what is hashed
    fresh.add(0, 1, multipath(p.HASH_SYMMETRIC_L4, p.LINK_HIGHEST_RANDOM_WEIGHT, 3))
    for link in range(3):
        fresh.add(1, 1, operation(p.OUTPUT, b=2 + link), reg0=link)
    forth = places(fresh)
    assert len(forth) == FLOWS
    assert set(forth.values()) == {"b", "c", "d"}
    assert places(fresh) == forth
    assert places(fresh, back=True) == forth


def bundle(algorithm: int, *ports: int) -> list[int]:
    return operation(p.BUNDLE, p.SET_NOTHING, 0, (p.HASH_SYMMETRIC_L4, 7, algorithm, 0, 0, *ports))


def test_a_bundle_moves_only_the_flows_of_a_member_that_is_down(fresh: Bench) -> None:
    fresh.add(0, 1, bundle(p.MEMBER_HIGHEST_RANDOM_WEIGHT, 2, 3, 4))
    before = places(fresh)
    assert all(150 < count < 250 for count in Counter(before.values()).values())
    fresh.engine.set_port_config("c", DOWN)
    after = places(fresh)
    assert {number: name for number, name in before.items() if name != "c"}.items() <= after.items()
    assert set(after.values()) == {"b", "d"}
    assert len(after) == FLOWS
    fresh.engine.set_port_config("c", 0)
    assert places(fresh) == before


def test_a_bundle_with_a_backup_takes_the_first_that_is_up(fresh: Bench) -> None:
    fresh.add(0, 1, bundle(p.MEMBER_ACTIVE_BACKUP, 3, 2, 4))
    for down, left in ((), {"c"}), (("c",), {"b"}), (("c", "b"), {"d"}), (("b", "c", "d"), set()):
        for name in PORTS:
            fresh.engine.set_port_config(name, DOWN if name in down else 0)
        assert set(places(fresh, 20).values()) == left


def test_select_groups_share_by_weight_and_move_only_what_they_must(fresh: Bench) -> None:
    ports = ((2, 1), (3, 2), (4, 0))
    group = fresh.group(GROUP_SELECT, [(operation(p.OUTPUT, b=port), weight, port) for port, weight in ports])
    fresh.add(0, 1, operation(p.GROUP, words=(group,)))
    before = places(fresh)
    shares = Counter(before.values())
    assert set(shares) == {"b", "c"}, "a bucket of no weight takes nothing"
    assert abs(shares["c"] - FLOWS * 2 / 3) < 6 * (FLOWS * 2 / 9) ** 0.5
    fresh.engine.set_port_config("b", DOWN)
    after = places(fresh)
    assert {number: name for number, name in before.items() if name == "c"}.items() <= after.items()
    assert set(after.values()) == {"c"}


def asked(bench: Bench) -> list[PacketIn]:
    return list(read_packet_ins(int(bench.engine.workers.all[0].row["packet_in"])))


def test_what_a_packet_teaches_is_asked_once_with_its_key(fresh: Bench) -> None:
    asked(fresh)
    subject = fresh.region.blob(b"what is learned")
    row = BY_NAME["ip_src"]
    mask = int.from_bytes(
        bytes(row.offset % 8) + b"\xff" * row.size + bytes(8 - row.offset % 8 - row.size), "little", signed=True
    )
    learn = operation(p.LEARN, words=(subject, row.offset & ~7, mask))
    fresh.add(0, 1, [*learn, *operation(p.OUTPUT, b=2)])
    sources = range(10)
    for _ in range(3):
        for number in sources:
            assert list(fresh.send("a", udp(number))) == ["b"]
    found = asked(fresh)
    keys = [int.from_bytes(each.key[row.offset : row.offset + row.size], "big") for each in found]
    # Once for each source in a second, of which two may have begun.
    assert set(keys) == {0x0A000000 | number for number in sources}
    assert max(Counter(keys).values()) <= 2
    assert {(each.reason, each.user_data, each.pipeline) for each in found} == {
        (REASON_LEARN, subject, fresh.tables.address)
    }


def test_only_the_end_of_a_connection_shortens_its_flow(fresh: Bench) -> None:
    asked(fresh)
    flow = fresh.add(0, 1, [*operation(p.FIN_TIMEOUT, words=(5 << 16 | 9,)), *operation(p.OUTPUT, b=2)])
    other = fresh.add(0, 2, operation(p.OUTPUT, b=2), in_port=2)

    def send(flags: str, port: str = "a") -> list[int]:
        data = bytes(Ether(src="02:00:00:00:00:01") / IP(dst="10.0.0.1") / TCP(flags=flags))
        fresh.send(port, data)
        return [each.user_data for each in asked(fresh) if each.reason == REASON_FIN_TIMEOUT]

    assert [send(flags) for flags in ("S", "A", "PA", "U")] == [[], [], [], []]
    assert send("FA", port="b") == []
    assert send("FA") == [flow]
    assert fresh.tables.fin_timeouts(flow) == [(5, 9)]
    assert fresh.tables.fin_timeouts(other) == []
