"""What a kind of port is: a class that opens devices and names the compiled functions that move its frames.

The engine's main thread constructs and opens a port, builds RXQ and TXQ records from its ``rx`` and ``tx`` specs, and
deals the receive queues to workers. Kernels see only those records; each spec's ``ctx`` is the address of a struct of
the kind's own. With fewer transmit specs than workers the engine shares them under a spin lock per burst.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from penstock.datapath.layout import EGRESS_DEVICE
from penstock.memory import Arena
from penstock.ports.loop import Loop

Health = Literal["up", "down", "error"]


class PortError(Exception):
    """A port cannot be opened or changed: the text names the port, the value and what would be right."""


@dataclass(frozen=True)
class RxSpec:
    """A receive queue: addresses of compiled functions, of the kind's struct, and the descriptor that epoll watches.

    ``fd`` -1 means that the worker asks on every turn; then ``pending`` must tell it whether it may sleep. With
    ``arm`` the worker asks until the queue is quiet, then has ``arm`` ask for a wake-up by the descriptor that
    ``PortContext.set_fd`` set last; while there is none, or ``rx`` says that the queue is out of service,
    ``PortContext.refresh`` wakes it.
    """

    rx: int
    ctx: int
    fd: int = -1
    release: int = 0
    pending: int = 0
    arm: int = 0


@dataclass(frozen=True)
class TxSpec:
    """A transmit queue: addresses of the compiled function and of the kind's struct."""

    tx: int
    ctx: int
    fd: int = -1
    queue: int = 0


def _nothing_kept(_name: str) -> list[int] | None:
    return None


def _keep_nothing(_name: str, _fds: list[int]) -> None:
    return None


def _forget_nothing(_name: str) -> None:
    return None


@dataclass
class PortContext:
    """What the engine lends to a port.

    ``adopt(name)`` gives descriptors that a previous engine kept under this name (the port owns them then), ``keep``
    stores duplicates outside the engine so that they outlive it, ``forget`` drops them. ``kick`` wakes every sleeping
    worker; ``quiesce`` returns when no worker uses anything that it could follow before. For a port whose other end
    comes and goes: ``loop`` is the main thread's; ``set_fd`` gives a receive queue, by index, the descriptor that
    wakes it (-1: none), ``refresh`` has workers look at all such queues again, ``set_offloads`` changes what the port
    takes. ``underlay`` is what tunnel ports are made of.
    """

    arena: Arena
    workers: int = 1
    mtu: int | None = None
    adopt: Callable[[str], list[int] | None] = _nothing_kept
    keep: Callable[[str, list[int]], None] = _keep_nothing
    forget: Callable[[str], None] = _forget_nothing
    kick: Callable[[], None] = lambda: None
    quiesce: Callable[[], None] = lambda: None
    loop: Loop = field(default_factory=Loop)
    set_fd: Callable[[int, int], None] = lambda _queue, _fd: None
    refresh: Callable[[], None] = lambda: None
    set_offloads: Callable[[int], None] = lambda _offloads: None
    underlay: Any = None  # ports.tunnel.Underlay, for tunnel ports


@dataclass(frozen=True)
class NoOptions:
    """A kind without settings."""


@dataclass
class Port(ABC):
    """A port of one kind. Subclasses set ``kind`` and ``Options`` and override what they need."""

    kind: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    makes_netdev: ClassVar[bool] = False  # whether it makes a kernel device of the port's own name
    egress: ClassVar[int] = EGRESS_DEVICE  # where what leaves by it goes

    name: str
    options: Any
    context: PortContext
    rx: list[RxSpec] = field(default_factory=list)
    tx: list[TxSpec] = field(default_factory=list)
    offloads: int = 0  # OFFLOAD_ bits of what the port takes in transmit
    mtu: int = 1500
    mac: str = ""
    netdev: str = ""  # kernel device behind the port, if any
    tunnel: int = 0  # address of its TUNNEL, if it is a tunnel port
    vlans: tuple[int, ...] = ()  # VLANs that a tunnel port carries, each of its frames in one; (): as it is configured

    def open(self) -> None:
        """Acquire devices and fill ``rx``, ``tx`` and the attributes. Raises PortError and leaves nothing behind."""

    def start(self) -> None:
        """Begin what needs workers to follow the port already. Called once, by the engine, after ``open``."""

    def stop(self) -> None:
        """End what ``start`` began. Called once, by the engine, while workers still follow the port."""

    def device_to_delete(self) -> int:
        """The index of the device in this namespace that goes with the port, asked before ``close``; 0: there is none.

        Closing it would delete it too, but one at a time, and a little later.
        """
        return 0

    def close(self) -> None:
        """Release everything. No worker uses the port any more."""

    def set_mtu(self, mtu: int) -> None:
        """Change the largest layer-3 packet that the port sends. Raises PortError."""
        self.mtu = mtu

    def set_up(self, up: bool) -> None:
        """Take the kernel device behind the port, if any, up or down. Raises PortError."""

    def check(self) -> tuple[Health, str]:
        """("up" | "down" | "error", reason): the device as it is now."""
        return "up", ""

    def driver_stats(self) -> dict[str, int]:
        """Counters of the device that no worker sees (for example frames the kernel dropped)."""
        return {}
