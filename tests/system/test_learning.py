"""MAC learning: flooding until an address is known, moves, ageing, flushing, a full table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.system.frames import Wire, frame, payload_of
from tests.system.lab import Lab, eventually

NAMES = ("one", "two", "three")
CONFIG = "[bridge.br0]\nmac_ageing = 2\nmac_table_size = 64\n" + "\n".join(
    f'[bridge.br0.port.{name}]\ntype = "packet"\nnetdev = "{name}"' for name in NAMES
)
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("learning")) as lab:
        for name in NAMES:
            lab.veth(name)
        lab.start(CONFIG)
        yield lab


@pytest.fixture
def wires(lab: Lab) -> Iterator[dict[str, Wire]]:
    assert lab.switch.command("flush", "br0").returncode == 0
    with ExitStack() as stack:
        yield {name: stack.enter_context(Wire(lab.hosts[name])) for name in NAMES}


def heard(wires: dict[str, Wire], payload: bytes) -> set[str]:
    return {name for name, wire in wires.items() if payload in [payload_of(each) for each in wire.received(0.2)]}


def test_unknown_addresses_are_flooded_and_known_ones_are_not(wires: dict[str, Wire]) -> None:
    wires["one"].send(frame(A, B, b"to a stranger"))
    assert heard(wires, b"to a stranger") == {"two", "three"}
    wires["two"].send(frame(B, A, b"to a friend"))
    assert heard(wires, b"to a friend") == {"one"}
    wires["one"].send(frame(A, B, b"no stranger now"))
    assert heard(wires, b"no stranger now") == {"two"}


def test_an_address_that_moves_is_followed_at_once(lab: Lab, wires: dict[str, Wire]) -> None:
    wires["one"].send(frame(A, payload=b"here"))
    wires["two"].send(frame(B, A, b"at one"))
    assert heard(wires, b"at one") == {"one"}
    wires["three"].send(frame(A, payload=b"moved"))
    wires["two"].send(frame(B, A, b"at three"))
    assert heard(wires, b"at three") == {"three"}
    assert lab.fdb()[A, 0] == "three"


def test_a_static_address_neither_moves_nor_is_forgotten(lab: Lab, wires: dict[str, Wire]) -> None:
    fixed = "02:00:00:00:00:0f"
    added = lab.switch.command("fdb", "br0", "--add", fixed, "--port", "one")
    assert added.returncode == 0
    assert "static" in added.stdout
    wires["two"].send(frame(fixed, payload=b"said to come from elsewhere"))
    assert lab.switch.command("flush", "br0").returncode == 0
    # The hosts' kernels speak at any time.
    assert {place: port for place, port in lab.fdb().items() if place[0].startswith("02:")} == {(fixed, 0): "one"}
    wires["three"].send(frame(B, fixed, b"only to one"))
    assert heard(wires, b"only to one") == {"one"}
    refused = lab.switch.command("fdb", "br0", "--add", "ff:ff:ff:ff:ff:ff", "--port", "one")
    assert refused.returncode == 1
    assert "'ff:ff:ff:ff:ff:ff' is not a unicast MAC address" in refused.stderr


def test_silent_addresses_are_forgotten(lab: Lab, wires: dict[str, Wire]) -> None:
    wires["one"].send(frame(A, payload=b"once"))
    eventually("the address is learned", lambda: (A, 0) in lab.fdb())
    eventually("the address is forgotten", lambda: (A, 0) not in lab.fdb(), 6)
    wires["two"].send(frame(B, A, b"a stranger again"))
    assert heard(wires, b"a stranger again") == {"one", "three"}


def test_flushing_forgets(lab: Lab, wires: dict[str, Wire]) -> None:
    wires["one"].send(frame(A, payload=b"once"))
    eventually("the address is learned", lambda: (A, 0) in lab.fdb())
    assert lab.switch.command("flush", "br0").returncode == 0
    assert (A, 0) not in lab.fdb()


def test_a_full_table_goes_on_forwarding(lab: Lab, wires: dict[str, Wire]) -> None:
    wires["one"].send(*[frame(f"02:00:00:01:00:{number:02x}", payload=b"%d" % number) for number in range(200)])
    assert len(wires["two"].received()) == 200
    assert 32 <= len(lab.fdb()) <= 64 + 1
    wires["two"].send(frame(B, "02:00:00:01:00:c7", b"still"))
    assert "one" in heard(wires, b"still")
