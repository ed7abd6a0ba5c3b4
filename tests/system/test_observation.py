"""What an operator sees: captures, traces, drops, rates, listings, the doctor."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.demo.echo import ping
from penstock.demo.launch import PENSTOCK
from tests.system.frames import Wire, frame
from tests.system.lab import Lab, eventually

CONFIG = """
[bridge.br0]
[bridge.br0.port.vm1]
type = "tap"
tag = 10
[bridge.br0.port.vm2]
type = "tap"
tag = 10
[bridge.br0.port.uplink]
type = "packet"
netdev = "uplink"
trunks = [10]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("observation")) as lab:
        lab.veth("uplink")
        lab.start(CONFIG)
        lab.plug("vm1", "10.0.0.1/24")
        lab.plug("vm2", "10.0.0.2/24")
        ping(lab.hosts["vm1"], "10.0.0.2")
        yield lab


def start_capture(lab: Lab, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    command = [*PENSTOCK, "capture", "--rundir", str(lab.switch.rundir), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert process.stderr is not None
    assert b"capturing" in process.stderr.readline()
    return process  # type: ignore[no-any-return]


@pytest.mark.needs("tshark")
def test_a_capture_is_readable_by_wireshark(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "vm1.pcapng"
    capturing = start_capture(lab, "vm1", "-w", str(file), "--count", "10")
    ping(lab.hosts["vm1"], "10.0.0.2", count=5)
    assert capturing.wait(10) == 0
    done = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", "-e", "icmp.type", "-e", "frame.interface_name"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    kinds = [line.split()[0] for line in done.stdout.splitlines() if len(line.split()) == 2]
    assert kinds[:4] == ["8", "0", "8", "0"]
    meta = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", "-e", "frame.interface_name"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert set(meta.stdout.split()) == {"vm1"}


@pytest.mark.needs("tshark")
def test_a_capture_can_be_piped(lab: Lab) -> None:
    capturing = start_capture(lab, "vm2", "-w", "-", stdout=subprocess.PIPE)
    reading = subprocess.Popen(
        ["tshark", "-l", "-r", "-", "-Y", "icmp", "-T", "fields", "-e", "icmp.type"],
        stdin=capturing.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert capturing.stdout is not None
    assert reading.stdout is not None
    capturing.stdout.close()
    ping(lab.hosts["vm1"], "10.0.0.2", count=2)
    assert [reading.stdout.readline().strip() for _ in range(4)] == ["8", "0", "8", "0"]
    capturing.terminate()
    assert capturing.wait(10) == 0
    reading.communicate(timeout=15)


def test_a_capture_of_an_unknown_port_fails(lab: Lab, tmp_path: Path) -> None:
    done = lab.switch.command("capture", "vm9", "-w", str(tmp_path / "x.pcapng"))
    assert done.returncode != 0
    assert "vm9" in done.stderr
    assert not (tmp_path / "x.pcapng").exists()


def test_a_trace_tells_what_would_happen(lab: Lab) -> None:
    one, two = lab.hosts["vm1"].mac("eth0"), lab.hosts["vm2"].mac("eth0")
    before = lab.counters("vm2")["tx_packets"]
    found = lab.switch.query("trace", "vm1", frame(one, two, b"known").hex())
    assert [output["port"] for output in found["outputs"]] == ["vm2"]
    assert found["drop"] is None
    found = lab.switch.query("trace", "vm1", frame(one, "02:00:00:00:00:99", b"unknown").hex())
    outputs = {output["port"]: bytes.fromhex(output["frame"]) for output in found["outputs"]}
    assert set(outputs) == {"vm2", "uplink"}
    assert outputs["uplink"][12:16] == b"\x81\x00\x00\x0a", "tagged on the trunk"
    assert outputs["vm2"][12:14] != b"\x81\x00"
    found = lab.switch.query("trace", "vm1", frame(one, two, b"tagged", vlan=10).hex())
    assert found["drop"] == "vlan_tagged_on_access" or "vlan_tagged_on_access" in str(found["drop"])
    assert lab.counters("vm2")["tx_packets"] - before < 5, "a trace sends nothing"
    assert "vm2" in lab.switch.command("trace", "vm1", frame(one, two).hex()).stdout


@pytest.mark.parametrize("text", ["xyz", "0102", ""])
def test_a_trace_of_no_frame_fails(lab: Lab, text: str) -> None:
    done = lab.switch.command("trace", "vm1", text)
    assert done.returncode != 0
    assert "frame" in done.stderr


def test_drops_have_names(lab: Lab) -> None:
    with Wire(lab.hosts["vm1"]) as wire:
        wire.send(frame("02:00:00:00:00:01", payload=b"x", vlan=10), frame("01:00:00:00:00:01", payload=b"y"))
    eventually("both drops are counted", lambda: {"vlan_tagged_on_access", "multicast_source"} <= set(lab.drops("vm1")))
    text = lab.switch.command("drops").stdout
    assert "vlan_tagged_on_access" in text
    assert "a tagged frame came in on an access port" in text


@pytest.mark.parametrize(
    "arguments",
    [("show",), ("ports",), ("fdb", "br0"), ("stats",), ("stats", "vm1"), ("drops",), ("top",), ("doctor",)],
)
def test_every_listing_has_text_and_json(lab: Lab, arguments: tuple[str, ...]) -> None:
    options = ("--once",) if arguments[0] == "top" else ()
    if arguments[0] == "doctor":  # it looks at the machine, not at a switch
        text, machine = (
            subprocess.run([*PENSTOCK, "doctor", *extra], text=True, capture_output=True) for extra in ([], ["--json"])
        )
    else:
        text, machine = lab.switch.command(*arguments, *options), lab.switch.command(*arguments, "--json")
    assert text.returncode == machine.returncode == 0, text.stderr + machine.stderr
    assert text.stdout.strip()
    json.loads(machine.stdout)


def test_top_tells_rates_and_load(lab: Lab) -> None:
    found = lab.switch.query("top")
    assert {row["name"] if "name" in row else row["port"] for row in found["ports"]} >= {"vm1", "vm2", "uplink"}
    assert len(found["workers"]) == 1


def test_the_doctor_names_what_the_machine_has() -> None:
    done = subprocess.run([*PENSTOCK, "doctor", "--json"], text=True, capture_output=True)
    names = {check["name"] for check in json.loads(done.stdout)}
    assert {"huge pages", "rights", "CPU features", "/dev/net/tun"} <= names


def test_an_unknown_verb_is_answered_with_what_there_is() -> None:
    done = subprocess.run([*PENSTOCK, "porst"], text=True, capture_output=True)
    assert done.returncode == 2
    assert "ports" in done.stderr
