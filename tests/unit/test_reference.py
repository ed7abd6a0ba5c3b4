"""The reference measurement: what it builds is what it says, and what it found is shown as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from penstock.openflow.text_flow import parse_flow
from penstock.reference.measure import Cell, Figures, Sample
from penstock.reference.picture import draw
from penstock.reference.scale import FLOWS_MAX, ONE, REFERENCE, VMS_MAX, Scale
from penstock.reference.subjects import SetUp
from penstock.reference.table import megabits, tables
from tests.naive.packet_checksum import ones_sum

SMALL = Scale(tunnels=10, vnis=60, macs=300)


@pytest.mark.parametrize("scale", [SMALL, ONE])
def test_every_entry_is_a_flow(scale: Scale) -> None:
    entries = list(scale.entries())
    for entry in entries:
        parse_flow(entry, {})
    tables_of = Counter(entry.partition(",")[0] for entry in entries)
    assert tables_of == {"table=0": VMS_MAX + 1, "table=1": scale.vnis, "table=2": scale.macs + VMS_MAX}


def test_the_reference_is_as_large_as_it_says() -> None:
    stations = list(REFERENCE.stations())
    assert len({address for _vni, address, _number in stations}) == 15_000
    assert len({REFERENCE.far_end(number) for _vni, _address, number in stations}) == 10_667
    networks = {vni for vni, _address, _number in stations}
    assert max(networks) <= 350_000
    assert len(networks) > 8000
    assert len({REFERENCE.vni(vm) for vm in range(VMS_MAX)}) == VMS_MAX


@pytest.mark.parametrize("flows", [1, FLOWS_MAX])
@pytest.mark.parametrize("vm", range(VMS_MAX))
def test_frames_go_to_stations_of_the_vms_network(vm: int, flows: int) -> None:
    frames = REFERENCE.frames(vm, flows, 128)
    here = {address for vni, address, _number in REFERENCE.stations() if vni == REFERENCE.vni(vm)}
    assert {frame.head[:6] for frame in frames} <= here
    assert len({frame.head[:6] for frame in frames}) == flows
    packet = Ether(frames[0].head)
    assert len(frames[0].head) == frames[0].length == 124
    assert packet[UDP].dport == 4000
    assert ones_sum(frames[0].head[14:34]) == 0xFFFF


def found() -> Figures:
    cells = [Cell(128, 1, 1), Cell(1518, 1, 1), Cell(128, 1, 1000)]

    def runs(pps: float) -> dict[Cell, list[Sample]]:
        return {cell: [Sample(pps * drift, 300 / drift, 0.99) for drift in (0.5, 1.0, 2.0)] for cell in cells}

    samples = {"penstock": runs(2_743_550), "one": runs(3_000_000), "open vswitch": runs(1_000_000)}
    return Figures(samples, {name: SetUp({"start": 1.0, "flow entries": 2.0}, 500 << 20) for name in samples})


def test_the_table_has_both_systems_and_their_ratio() -> None:
    text = tables(found())
    (row,) = [line for line in text.splitlines() if "274,355" in line and "2,743,550" in line][:1]
    assert "10.0" in row
    assert "0.91" in row
    assert "500" in text.partition("setting up")[2]


def test_megabits_count_what_the_wire_has_besides() -> None:
    assert round(megabits(274_355, 128), -1) == 320
    assert round(megabits(669_144, 1518), -1) == 8230


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(found(), tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
