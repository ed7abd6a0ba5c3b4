"""How much of a packet is parsed follows what its bridge does: layer 2 for NORMAL, all that flows may match else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from penstock.datapath.pipeline.layout import FRAG_DROP, FRAG_NX_MATCH
from penstock.engine.engine import Engine
from penstock.engine.flow_region import FlowRegion, make_region
from penstock.engine.flow_tables import FlowTables
from penstock.engine.warm import warm
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import Command, FlowMod
from penstock.openflow.match import EMPTY
from penstock.openflow.text_flow import parse_flow
from tests.engine.support import add_bridge, drops, frame, mac, send, sent

pytestmark = pytest.mark.root

ARENA = 256 << 20
A, B = mac(1), mac(2)


class Site:
    """An engine with a bridge of three dummy ports that has flow tables."""

    def __init__(self) -> None:
        self.engine = Engine(workers=1, arena_bytes=ARENA)
        fd = make_region()
        self.engine.use_flow_region(f"/proc/{os.getpid()}/fd/{fd}")
        os.close(fd)
        self.region = FlowRegion()
        self.region.set_workers([worker.row for worker in self.engine.workers.all])
        add_bridge(self.engine, "a", "b", "c")
        self.tables = FlowTables.create(self.region, "br0")
        self.engine.set_pipeline("br0", self.tables.address)
        self.bridge = OpenFlowBridge(self.region, self.tables, self.engine.workers.cycles_hz, lambda _flow, _why: None)

    def flows(self, *texts: str) -> None:
        """Have these be the bridge's flows."""
        numbers = {name: port.ofport for name, port in self.engine.ports.items()}
        deletion = FlowMod(Command.DELETE, 0, 0, EMPTY)
        self.bridge.flow_mods([deletion, *(parse_flow(text, numbers) for text in texts)])

    def where(self, *frames: bytes) -> list[str]:
        """The ports by which frames from port a leave, one letter for each."""
        for name in "bc":
            sent(self.engine, name)
        send(self.engine, "a", frames)
        return [name for name in "bc" for _ in sent(self.engine, name)]

    def close(self) -> None:
        self.region.set_workers(())
        self.engine.stop()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    warm(lambda done, total, name: None)
    made = Site()
    yield made
    made.close()


def udp(port: int, fragment: int = 0) -> bytes:
    """A datagram of IPv4 to a port."""
    head = b"\x45\0\0\x30\0\0" + fragment.to_bytes(2, "big") + b"\x40\x11\0\0" + bytes((10, 0, 0, 1, 10, 0, 0, 2))
    return frame(B, A, head + b"\0\x07" + port.to_bytes(2, "big") + b"\0\x1c\0\0" + bytes(20), 0x0800)


BY_PORT = ("udp,tp_dst=53,actions=output:b", "udp,tp_dst=54,actions=output:c")


def test_flows_see_all_layers_also_after_normal_did_not(site: Site) -> None:
    for _ in range(3):
        site.flows("actions=normal")
        assert site.where(udp(53)) == ["b", "c"], "flooded"
        site.flows(*BY_PORT)
        assert site.where(udp(53), udp(54), udp(55)) == ["b", "c"]
        site.flows("ip,nw_dst=10.0.0.2,actions=output:c", "nw_ttl=7,ip,priority=60000,actions=output:b")
        assert site.where(udp(53)) == ["c"]


@pytest.mark.parametrize("flow", ["actions=normal", "udp,actions=output:b"])
def test_a_fragment_that_is_dropped_leaves_the_frames_after_it_alone(site: Site, flow: str) -> None:
    """Those of its burst, and those of every burst that the worker receives later."""
    site.flows(flow)
    whole = [udp(port) for port in range(50, 58)]
    site.tables.row["frags"] = FRAG_DROP
    try:
        for burst in ([udp(1, 0x2000), *whole], [*whole[:3], udp(2, 0x2000), *whole[3:]], whole):
            sent(site.engine, "b")
            send(site.engine, "a", burst)
            assert sent(site.engine, "b") == whole
    finally:
        site.tables.row["frags"] = 0


def test_normal_alone_still_drops_fragments_when_told(site: Site) -> None:
    site.flows("actions=normal")
    before, lost = int(site.tables.row["frags"]), drops(site.engine, "a").get("fragment", 0)
    assert len(site.where(udp(53, 0x2000))) == 2
    site.tables.row["frags"] = FRAG_DROP
    try:
        assert site.where(udp(53, 0x2000)) == []
        assert drops(site.engine, "a")["fragment"] == lost + 1
        assert len(site.where(udp(53))) == 2
    finally:
        site.tables.row["frags"] = before


FIRST, LATER = 0x2000, 0x0001


def test_flows_see_no_ports_in_fragments_unless_told(site: Site) -> None:
    site.flows(*BY_PORT, "udp,tp_dst=0,priority=9,actions=output:c")
    for _ in range(3):  # what was found is remembered
        assert site.where(udp(53), udp(53, FIRST), udp(53, LATER)) == ["b", "c", "c"]
    site.tables.row["frags"] = FRAG_NX_MATCH
    try:
        for _ in range(3):
            assert site.where(udp(53), udp(53, FIRST)) == ["b", "b"]
    finally:
        site.tables.row["frags"] = 0


def test_actions_see_the_ports_of_a_first_fragment(site: Site) -> None:
    """A part of the port is changed, the rest of it stays; and a second table's flows see no port either."""
    site.flows(
        "udp,actions=load:0xab->NXM_OF_UDP_DST[4..11],resubmit(,1)",
        "table=1,udp,tp_dst=0,actions=output:b",
        "table=1,priority=1,actions=output:c",
    )
    for _ in range(3):
        sent(site.engine, "b")
        send(site.engine, "a", [udp(0x1234, FIRST)])
        (out,) = sent(site.engine, "b")
        assert out[36:38] == b"\x1a\xb4"
