"""What the engine client returns about forwarding."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FdbEntry:
    """An address of a bridge's FDB: ``age`` in seconds since it was last seen, ``remote`` the far end of a tunnel."""

    mac: str
    vlan: int
    port: str
    age: float
    static: bool
    remote: str = ""


@dataclass(frozen=True)
class TraceOutput:
    """A frame as it would leave by a port."""

    port: str
    frame: bytes


@dataclass(frozen=True)
class TraceResult:
    """The way of one frame: the flow key's fields, each step in words, what leaves where, and why it was dropped."""

    steps: list[str]
    fields: dict[str, str]
    outputs: list[TraceOutput] = field(default_factory=list)
    drop: str | None = None
