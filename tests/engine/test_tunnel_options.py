"""Options of Geneve in a running engine: bound by a bridge's TLV map to fields that flows match and set."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, GSO_TCPV4
from penstock.engine.flow_region import FlowRegion, make_region
from penstock.engine.flow_tables import FlowTables
from penstock.engine.tlv_map import Mapping
from penstock.engine.warm import warm
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import Command, FlowMod
from penstock.openflow.match import EMPTY
from penstock.openflow.text_flow import parse_flow
from penstock.ports.dummy import Frame
from tests.engine.test_tunnels import PEER, VM, Site, plain, source_port
from tests.naive.tunnel import Form, encapsulate

pytestmark = pytest.mark.root

BOUND = (Mapping(0x0102, 0x80, 4, 0), Mapping(0x0108, 1, 8, 1), Mapping(0xFFFF, 0, 4, 7))
slow = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.tuples(*(st.one_of(st.just(0), st.integers(0, (1 << 8 * each.octets) - 1)) for each in BOUND))


class Optioned(Site):
    """A site whose overlay has flow tables, a TLV map, and a Geneve tunnel."""

    def __init__(self) -> None:
        super().__init__()
        fd = make_region()
        self.engine.use_flow_region(f"/proc/{os.getpid()}/fd/{fd}")
        os.close(fd)
        self.region = FlowRegion()
        self.region.set_workers([worker.row for worker in self.engine.workers.all])
        tables = FlowTables.create(self.region, "over")
        self.engine.set_pipeline("over", tables.address)
        self.bridge = OpenFlowBridge(self.region, tables, self.engine.workers.cycles_hz, lambda _entry, _why: None)
        self.bridge.tlvs.replace(BOUND)
        self.add("over", "tun", "geneve", remote_ip="10.0.0.2", key=7)
        self.turn()

    def flow(self, text: str) -> None:
        """Have this be the overlay's one flow."""
        numbers = {name: port.ofport for name, port in self.engine.ports.items()}
        self.bridge.flow_mod(FlowMod(Command.DELETE, 0, 0, EMPTY))
        self.bridge.flow_mod(parse_flow(text, numbers))

    def close(self) -> None:
        self.region.set_workers(())
        super().close()


@pytest.fixture(scope="module")
def optioned() -> Iterator[Optioned]:
    warm(lambda done, total, name: None)
    site = Optioned()
    yield site
    site.close()


def option(bound: Mapping, value: bytes) -> bytes:
    """An option as RFC 8926 has it."""
    return struct.pack("!HBB", bound.option_class, bound.option_type, len(value) // 4) + value


def options_of(values: Sequence[int]) -> bytes:
    """The options that stand for values of the bound fields."""
    pairs = zip(BOUND, values, strict=True)
    return b"".join(option(bound, value.to_bytes(bound.octets, "big")) for bound, value in pairs if value)


def form(values: Sequence[int], port: int) -> Form:
    """A Geneve packet with these options, the first of which is critical."""
    return Form("geneve", 6081, 7, options=options_of(values), critical=bool(values[0]), source_port=port)


def set_fields(values: Sequence[int]) -> str:
    """The flow that has packets of the VM sent with values."""
    fields = [f"set_field:{value:#x}->{bound.field}" for bound, value in zip(BOUND, values, strict=True)]
    return f"in_port=vm,actions={','.join(fields)},output:tun"


def test_fields_that_are_set_are_sent(optioned: Optioned) -> None:
    site = optioned

    @slow
    @given(VALUES)
    def check(values: tuple[int, ...]) -> None:
        site.flow(set_fields(values))
        (outer,) = site.through(plain())
        assert outer == encapsulate(plain(), site.link(), form(values, source_port(outer)))

    check()


@st.composite
def arriving(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """Options in any order, some unknown or with another length; and what the bound fields are then."""
    values = [0] * len(BOUND)
    made = b""
    for index in draw(st.lists(st.integers(0, len(BOUND) + 1), max_size=4)):
        if index >= len(BOUND):
            made += option(Mapping(0x0105, index, 4, 0), draw(st.binary(min_size=4, max_size=4)))
            continue
        octets = draw(st.sampled_from((BOUND[index].octets,) * 3 + (0, 12)))
        value = draw(st.binary(min_size=octets, max_size=octets))
        if octets == BOUND[index].octets:
            values[index] = int.from_bytes(value, "big")
        made += option(BOUND[index], value)
    return made, values


def test_fields_are_those_of_the_options_that_came(optioned: Optioned) -> None:
    site = optioned

    @slow
    @given(arriving(), st.booleans(), st.integers(0, len(BOUND) - 1))
    def check(came: tuple[bytes, list[int]], right: bool, place: int) -> None:
        options, values = came
        asked = [value ^ int(index == place and not right) for index, value in enumerate(values)]
        match = ",".join(f"{bound.field}={value:#x}" for bound, value in zip(BOUND, asked, strict=True))
        site.flow(f"in_port=tun,{match},actions=output:vm")
        outer = encapsulate(plain(source=PEER, destination=VM), site.back(), Form("geneve", 6081, 7, options=options))
        assert site.arrive(outer) == ([plain(source=PEER, destination=VM)] if right else [])

    check()


def test_part_of_a_field_is_matched_and_moved(optioned: Optioned) -> None:
    site = optioned
    site.flow(
        "in_port=tun,tun_metadata0=0x1200/0xff00,"
        "actions=move:NXM_NX_TUN_METADATA0[0..7]->NXM_NX_TUN_METADATA7[8..15],load:0x5->NXM_NX_TUN_METADATA0[],in_port"
    )
    site.encapsulated()
    outer = encapsulate(plain(), site.back(), Form("geneve", 6081, 7, options=options_of((0xAB0012CD, 0, 0))))
    site.arrive(outer)
    (back,) = site.encapsulated()
    assert back == encapsulate(plain(), site.link(), form((5, 0, 0xCD00), source_port(back)))


def test_what_goes_in_is_less_by_the_options(optioned: Optioned) -> None:
    site = optioned
    site.flow(set_fields((1, 2, 3)))
    most = 1500 - 20 - 8 - 8 - len(options_of((1, 2, 3)))
    (outer,) = site.through(plain(most))
    assert len(outer) == 1514
    lost = site.dropped("tun").get("mtu_exceeded", 0)
    assert site.through(plain(most + 1)) == []
    assert site.dropped("tun")["mtu_exceeded"] == lost + 1


def test_segments_all_have_them(optioned: Optioned) -> None:
    site = optioned
    site.flow(set_fields((9, 0, 8)))
    payload = bytes(5000)
    ip = (
        b"\x45\0"
        + (40 + len(payload)).to_bytes(2, "big")
        + b"\0\x07\x40\0\x40\x06\0\0"
        + bytes((10, 1, 0, 1, 10, 1, 0, 2))
    )
    tcp = b"\x10\0\x20\0" + bytes(8) + b"\x50\x18\x10\0" + bytes(4)
    pieces = site.through(
        Frame(PEER + VM + b"\x08\x00" + ip + tcp + payload, 34, 16, 1000, GSO_TCPV4, FLAG_CSUM_PARTIAL)
    )
    assert len(pieces) == 5
    for outer in pieces:
        inner = outer[14 + 20 + 8 + 8 + 16 :]
        assert len(inner) == 1054
        assert outer == encapsulate(inner, site.link(), form((9, 0, 8), source_port(outer)))


def test_a_map_that_changes_is_followed_at_once(optioned: Optioned) -> None:
    site = optioned
    site.flow(set_fields((1, 2, 3)))
    site.bridge.tlvs.replace([])
    (outer,) = site.through(plain())
    assert outer == encapsulate(plain(), site.link(), Form("geneve", 6081, 7, source_port=source_port(outer)))
    lost = site.dropped("host0").get("tunnel_header", 0)
    critical = Form("geneve", 6081, 7, options=options_of((1, 0, 0)), critical=True)
    assert site.arrive(encapsulate(plain(), site.back(), critical)) == []
    assert site.dropped("host0")["tunnel_header"] == lost + 1
    site.bridge.tlvs.replace(BOUND)
    (outer,) = site.through(plain())
    assert outer == encapsulate(plain(), site.link(), form((1, 2, 3), source_port(outer)))
