"""The demo, run as an operator runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rich.console import Console

from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.demo.story import Story

DEMO = (sys.executable, "-m", "penstock.demo")


def leftovers() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("penstock-demo-*"))


@pytest.mark.needs("ping")
def test_every_claim_holds_and_it_stays_until_interrupted() -> None:
    before, began = leftovers(), time.monotonic()
    demo = subprocess.Popen([*DEMO, "--stay"], text=True, stdout=subprocess.PIPE)
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if " reload " in line:
            break
    assert time.monotonic() - began < 60
    assert "FAIL" not in said
    assert said.partition("Verdicts")[2].count("PASS") >= 8
    commands = [line.partition("#")[0].split() for line in said.splitlines() if line.startswith("  nsenter")]
    assert len(commands) == 4
    for command in commands:
        assert subprocess.run([*command, "-c", "1"], capture_output=True).returncode == 0
    demo.send_signal(signal.SIGINT)
    assert demo.wait(20) == 0
    assert leftovers() == before


def test_without_rights_it_says_what_helps() -> None:
    """Root without capabilities can make no user namespace that maps root: the demo must say so and what to do."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *DEMO], text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert "sudo make demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_claim_that_does_not_hold_is_told(tmp_path: Path) -> None:
    """Hosts that are not plugged in reach nobody: the verdict is FAIL."""
    with Host("switch") as site, Host("red1") as red, Host("red2") as other:
        switch = RunningSwitch(site, tmp_path, "[bridge.br0]")
        hosts = {"red1": red, "red2": other, "blue1": red, "blue2": other}
        story = Story(Console(quiet=True), switch, hosts)
        story.reachability()
        assert [verdict.holds for verdict in story.verdicts] == [False]
