"""Open vSwitch's ovs-ofctl against a switch under test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LISTEN_SECONDS = 0.3  # until a listener listens, and until it has heard
OF13 = ("-O", "OpenFlow13")


class Ofctl:
    """Runs ovs-ofctl on the bridges of a run directory."""

    def __init__(self, rundir: Path) -> None:
        if shutil.which("ovs-ofctl") is None:
            pytest.skip("ovs-ofctl is not installed")
        self._environment = {**os.environ, "OVS_RUNDIR": str(rundir)}

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """The command as it ended."""
        return subprocess.run(
            ["ovs-ofctl", *words], env=self._environment, input=given, text=True, capture_output=True, timeout=60
        )

    def __call__(self, *words: str, given: str = "") -> str:
        """What the command printed; it has to succeed."""
        done = self.run(*words, given=given)
        assert done.returncode == 0, f"ovs-ofctl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def refused(self, *words: str) -> str:
        """The error of a command that has to fail: name of what the switch answered."""
        done = self.run(*words)
        found = re.search(r"OFPT_ERROR.*: (OFP\w+|NX\w+)", done.stdout + done.stderr)
        assert found, f"ovs-ofctl {' '.join(words)} was not refused: {done.stdout}{done.stderr}"
        return found.group(1)

    @contextmanager
    def listening(self, *words: str) -> Iterator[list[str]]:
        """Have a command that listens run meanwhile; afterwards the list has what it said."""
        said: list[str] = []
        process = subprocess.Popen(
            ["ovs-ofctl", *words], env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            time.sleep(LISTEN_SECONDS)
            yield said
            time.sleep(LISTEN_SECONDS)
        finally:
            process.terminate()
            said.append(process.communicate(timeout=5)[0])

    def flows(self, bridge: str, *options: str, match: str = "") -> list[str]:
        """The flows without what changes by itself."""
        words = [bridge, match] if match else [bridge]
        lines = self(*options, "dump-flows", *words).splitlines()[1:]
        return sorted(
            re.sub(r"(duration|idle_age|hard_age|n_packets|n_bytes)=[\d.]+s?,? ?", "", x).strip() for x in lines
        )

    def counted(self, bridge: str, match: str) -> tuple[int, int]:
        """Packets and bytes of the flows of a match together."""
        found = re.search(r"packet_count=(\d+) byte_count=(\d+)", self("dump-aggregate", bridge, match))
        assert found
        return int(found.group(1)), int(found.group(2))
