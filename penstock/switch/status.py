"""What the supervisor tells about the engine and the control process, in <rundir>/supervisor.json.

Written by the supervisor alone, at each change; read by the control process and the command line, which say in words
why something is down or was.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.switch.rundir import STATUS, write_json

Role = Literal["engine", "control"]


@dataclass
class ChildStatus:
    """One supervised process. Times are UNIX seconds; 0 and "" mean that it did not happen."""

    pid: int = 0
    started: float = 0.0
    ready: float = 0.0
    restarts: int = 0
    last_exit: str = ""
    last_exit_at: float = 0.0

    @property
    def running(self) -> bool:
        return self.pid != 0

    @property
    def history(self) -> str:
        """How it ended last and what came after: "was killed by signal 9 (SIGKILL) at 12:00:01"; "" if it never did."""
        if not self.last_exit:
            return ""
        text = f"{self.last_exit} at {clock_time(self.last_exit_at)}"
        if not self.running:
            return text
        text += f", restarted {self.started - self.last_exit_at:.1f} s later"
        if self.ready >= self.started:
            return f"{text}, ready after {self.ready - self.last_exit_at:.1f} s"
        return f"{text}, not ready yet"


@dataclass
class SupervisorStatus:
    pid: int
    started: float
    config: str
    spare: int = 0  # process id of a spare engine that has loaded everything
    engine: ChildStatus = field(default_factory=ChildStatus)
    control: ChildStatus = field(default_factory=ChildStatus)

    def write(self, rundir: Path) -> None:
        write_json(rundir / STATUS, asdict(self))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SupervisorStatus:
        children = {role: ChildStatus(**data[role]) for role in ("engine", "control")}
        return cls(**{**data, **children})

    @classmethod
    def read(cls, rundir: Path) -> SupervisorStatus | None:
        """The status last written, or None when no supervisor wrote one."""
        try:
            return cls.from_json(json.loads((rundir / STATUS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def exit_in_words(code: int) -> str:
    """How a process ended, from the return code that subprocess gives."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name})"


def clock_time(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
