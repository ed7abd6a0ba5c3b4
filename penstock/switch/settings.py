"""Settings of the engine process, fixed when it starts.

Apart from the rest of desired state because the supervisor needs these before anything else runs, and must not import
the kinds of port (and Numba with them) to know them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from annotated_types import Interval


@dataclass(frozen=True)
class EngineSettings:
    """The `[engine]` table of the configuration file."""

    workers: Annotated[int, Interval(ge=1, le=64), Doc("How many worker threads forward frames.")] = 1
    cpus: Annotated[
        tuple[Annotated[int, Interval(ge=0, le=4095)], ...],
        Doc("The CPUs to pin the workers to, one for each; when empty the engine chooses."),
    ] = ()
    poll: Annotated[
        Literal["adaptive", "busy"],
        Doc("`adaptive`: an idle worker sleeps until a frame comes; `busy`: it spins always, for the lowest latency."),
    ] = "adaptive"
    huge_pages: Annotated[
        bool, Doc("Use huge pages for the shared memory where the machine has them (plain pages where not).")
    ] = True
    spare: Annotated[
        bool,
        Doc(
            "Have a second engine process wait, which takes over from one that is killed within tenths of a second, "
            "and takes 150 MB of memory; without it another one is started then."
        ),
    ] = True

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cpus": list(self.cpus)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineSettings:
        return cls(**{**data, "cpus": tuple(data["cpus"])})

    def arguments(self) -> list[str]:
        """The engine's command line for these settings."""
        words = ["--workers", str(self.workers), "--poll", self.poll]
        if self.cpus:
            words += ["--cpus", ",".join(map(str, self.cpus))]
        if not self.huge_pages:
            words.append("--no-huge-pages")
        return words
