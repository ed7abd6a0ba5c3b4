"""Captures as tshark and capinfos read them."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.observe.pcapng import PcapngWriter

TIME = 1_700_000_000_123_456_789
FRAME = bytes.fromhex("ffffffffffff020000000001080600010800060400010200000000010a000001000000000000" + "0a000002")

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def write(path: Path) -> None:
    with path.open("wb") as stream:
        writer = PcapngWriter(stream)
        first, second = writer.interface("vm1", 262144), writer.interface("eth1", 60)
        writer.frame(first, TIME, "rx", len(FRAME), FRAME)
        writer.frame(second, TIME + 1, "tx", 64000, bytes(60))
        writer.frame(second, TIME + 2, "tx", 61, bytes(59))
        writer.statistics(first, lost=0)
        writer.statistics(second, lost=7)


def tshark(path: Path, *arguments: str) -> list[list[str]]:
    command = ["tshark", "-r", str(path), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_frames_times_lengths_interfaces_and_directions(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    write(path)
    fields = ["frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.packet_flags_direction"]
    rows = tshark(path, "-T", "fields", *(word for field in fields for word in ("-e", field)))
    assert rows == [
        ["1700000000.123456789", "42", "42", "vm1", "0x00000001"],
        ["1700000000.123456790", "64000", "60", "eth1", "0x00000002"],
        ["1700000000.123456791", "61", "59", "eth1", "0x00000002"],
    ]


def test_a_frame_is_dissected(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    write(path)
    assert tshark(path, "-Y", "arp", "-T", "fields", "-e", "arp.dst.proto_ipv4") == [["10.0.0.2"]]


def test_capinfos_finds_it_well_formed(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    write(path)
    said = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout
    for text in ("pcapng", "Number of packets:   3", "Capture application: penstock", "Time precision = nanoseconds"):
        assert text in said


def test_statistics_hold_what_was_lost() -> None:
    stream = io.BytesIO()
    writer = PcapngWriter(stream)
    interface = writer.interface("vm1", 100)
    before = len(stream.getvalue())
    writer.statistics(interface, lost=7)
    block = stream.getvalue()[before:]
    assert block[:4] == (5).to_bytes(4, "little")
    assert (5).to_bytes(2, "little") + (8).to_bytes(2, "little") + (7).to_bytes(8, "little") in block


def test_without_frames_it_is_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcapng"
    with path.open("wb") as stream:
        PcapngWriter(stream).interface("vm1", 262144)
    assert tshark(path) == []
