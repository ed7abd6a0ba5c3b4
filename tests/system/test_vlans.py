"""VLAN modes on the wire: what each mode takes in and how it sends it out, against the rules written down naively."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.frames import Wire, frame, payload_of, vlan_of
from tests.system.lab import Lab


@dataclass(frozen=True)
class Mode:
    """A port's VLAN settings as in the configuration file."""

    name: str
    mode: str
    tag: int | None = None
    trunks: tuple[int, ...] = ()

    @property
    def config(self) -> str:
        lines = [f"[bridge.br0.port.{self.name}]", 'type = "packet"', f'netdev = "{self.name}"']
        lines.append(f'vlan_mode = "{self.mode}"')
        if self.tag is not None:
            lines.append(f"tag = {self.tag}")
        if self.trunks:
            lines.append(f"trunks = {list(self.trunks)}")
        return "\n".join(lines)

    def carries(self, vlan: int) -> bool:
        if self.mode == "access":
            return vlan == self.tag
        return vlan == self.tag or not self.trunks or vlan in self.trunks

    def vlan_in(self, tag: int | None) -> int | None:
        """The VLAN of a frame that comes in with this tag; None when it is refused."""
        if self.mode == "access" and tag:
            return None
        vlan = tag or self.tag or 0
        return vlan if self.carries(vlan) else None

    def tag_out(self, vlan: int) -> int | None:
        """The tag that a frame of this VLAN leaves with."""
        untagged = self.mode == "access" or vlan == 0 or (self.mode == "native-untagged" and vlan == self.tag)
        return None if untagged else vlan


PORTS = (
    Mode("access10", "access", 10),
    Mode("access20", "access", 20),
    Mode("trunk", "trunk", None, (10, 20)),
    Mode("trunkall", "trunk"),
    Mode("nativetag", "native-tagged", 10, (20,)),
    Mode("nativeuntag", "native-untagged", 10, (20,)),
)
TAGS = (None, 0, 10, 20, 30)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("vlans")) as lab:
        for port in PORTS:
            lab.veth(port.name)
        lab.start("[bridge.br0]\n" + "\n".join(port.config for port in PORTS))
        yield lab


def test_every_mode_takes_and_sends_what_it_should(lab: Lab) -> None:
    """Every port broadcasts with every tag; what every other port hears is compared with the rules."""
    expected: dict[str, set[tuple[bytes, int | None]]] = {port.name: set() for port in PORTS}
    wires = {port.name: Wire(lab.hosts[port.name]) for port in PORTS}
    for position, port in enumerate(PORTS):
        for tag in TAGS:
            payload = f"{port.name} with tag {tag}".encode()
            wires[port.name].send(frame(f"02:00:00:00:01:{position:02x}", payload=payload, vlan=tag))
            vlan = port.vlan_in(tag)
            for other in PORTS:
                if other is not port and vlan is not None and other.carries(vlan):
                    expected[other.name].add((payload, other.tag_out(vlan)))
    for port in PORTS:
        heard = [(payload_of(each), vlan_of(each)) for each in wires[port.name].received()]
        assert set(heard) == expected[port.name], port
        assert len(heard) == len(set(heard)), "no frame may come twice"
    for wire in wires.values():
        wire.__exit__(None, None, None)


def test_the_priority_of_a_tag_is_kept(lab: Lab) -> None:
    with Wire(lab.hosts["trunk"]) as wire, Wire(lab.hosts["trunkall"]) as other:
        wire.send(frame("02:00:00:00:02:01", payload=b"urgent", vlan=10, priority=5))
        (heard,) = other.received()
    assert heard[14:16] == (5 << 13 | 10).to_bytes(2, "big")


def test_refused_frames_are_counted_by_reason(lab: Lab) -> None:
    before_access, before_trunk = lab.drops("access10"), lab.drops("trunk")
    with Wire(lab.hosts["access10"]) as wire:
        wire.send(frame("02:00:00:00:03:01", payload=b"tagged", vlan=10))
    with Wire(lab.hosts["trunk"]) as wire:
        wire.send(frame("02:00:00:00:03:02", payload=b"foreign", vlan=30))
        wire.send(frame("02:00:00:00:03:02", payload=b"untagged"))
        wire.received(0.2)
    assert lab.drops("access10")["vlan_tagged_on_access"] == before_access.get("vlan_tagged_on_access", 0) + 1
    assert lab.drops("trunk")["vlan_not_member"] >= before_trunk.get("vlan_not_member", 0) + 2
