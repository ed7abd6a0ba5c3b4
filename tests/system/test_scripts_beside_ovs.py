"""Scripts of ovs-vsctl and ovs-ofctl commands (`scripts/`) do to frames under penstock-vswitchd what they do under Open
vSwitch.

Before each script there is a bridge br0 with the ports p1 to p4, numbered 1 to 4, and nothing learned. After it, the
frames of `script_frames.py` are sent into each port in turn. Comments of a script may ask for more:
`# warm up: 1` (all ports send before, so that what is compared meets what was learned), `# pause: 0.2` (seconds after
each port's frames), `# differs (FRAME, ...): WHY` (what is known to differ: frames, or `flows` as ovs-ofctl shows them;
all else must be the same, and this must differ), `# may differ (FRAME, ...): WHY` (Open vSwitch does not always the
same). A script's environment has $IN, which runs a command in the switch's host, and $APPCTL, ovs-appctl on the switch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether

from tests.system.script_frames import frames
from tests.system.script_sites import Outcome, OvsSite, PenstockSite

pytestmark = pytest.mark.needs("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.sh"))
MOST = 6  # differences that are told in full
Sites = tuple[PenstockSite, OvsSite]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    penstock = PenstockSite(tmp_path_factory.mktemp("penstock"))
    try:
        ovs = OvsSite(tmp_path_factory.mktemp("openvswitch"))
        try:
            yield penstock, ovs
        finally:
            ovs.close()
    finally:
        penstock.close()


def asked(script: Path, name: str) -> float:
    found = re.search(rf"^# {name}: (.*)$", script.read_text(), re.MULTILINE)
    return float(found.group(1)) if found else 0


def known(script: Path, how: str) -> set[str]:
    """What is said to differ, or that it may."""
    found = re.findall(rf"^# {how} \(([^)]*)\): ", script.read_text(), re.MULTILINE)
    return {name for some in found for name in some.split(", ")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_frames_come_out_as_of_open_vswitch(sites: Sites, script: Path) -> None:
    warm_up, pause = int(asked(script, "warm up")), asked(script, "pause")
    here, there = (site.run(script, warm_up, pause) for site in sites)
    told = list(differences(here, there))
    strict = known(script, "differs")
    new = [text for name, text in told if name not in strict | known(script, "may differ")]
    assert not new, f"{len(new)} differences under {script.name}:\n" + "\n".join([script.read_text(), *new[:MOST]])
    gone = strict - {name for name, _ in told}
    assert not gone, f"{script.name} says that these differ, and they do not: {', '.join(sorted(gone))}"


def differences(here: Outcome, there: Outcome) -> Iterator[tuple[str, str]]:
    """A name and a text for each frame that the two switches treat differently, and for flows that they tell so."""
    for port, name in there.frames:
        ours, theirs = here.frames[port, name], there.frames[port, name]
        if ours != theirs:
            sent = frames(port)[name]
            yield name, f"{port} sends '{name}': {shown(sent)}\n{sides(ours, theirs)}"
    if here.strangers != there.strangers:
        yield "strangers", f"frames that nobody sent:\n{sides(here.strangers, there.strangers)}"
    for bridge, flows in there.flows.items():
        if here.flows[bridge] != flows:
            ours, theirs = set(here.flows[bridge]) - set(flows), set(flows) - set(here.flows[bridge])
            lines = [f"  Penstock alone: {each}" for each in ours] + [
                f"  Open vSwitch alone: {each}" for each in theirs
            ]
            yield "flows", "\n".join([f"flows of {bridge}:", *sorted(lines)])


def sides(ours: Counter[tuple[str, bytes]], theirs: Counter[tuple[str, bytes]]) -> str:
    """What came out of one switch and not of the other."""
    lines = []
    for name, some in (
        ("both", ours & theirs),
        ("Penstock alone", ours - theirs),
        ("Open vSwitch alone", theirs - ours),
    ):
        lines += [f"  {name}: {count} at {port}: {shown(data)}" for (port, data), count in sorted(some.items())]
    return "\n".join(lines)


def shown(data: bytes) -> str:
    return f"{Ether(data).summary()}\n      {data.hex()}"
