"""Which features the guest asks for, and which it makes do without. Pure functions of settings and offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, MinLen, MultipleOf

from penstock.datapath.layout import OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO, OFFLOAD_USO
from penstock.ports.base import PortError
from penstock.ports.spec import Doc
from penstock.ports.vhost_user.messages import ProtocolFeature
from penstock.ports.vhost_user.virtio import Feature, mask, names

Offload = Literal["csum", "tso4", "tso6", "ufo", "uso"]
ALL_OFFLOADS: tuple[Offload, ...] = ("csum", "tso4", "tso6", "ufo", "uso")

# Offload: its bit in transmit, what the guest may send then, what it takes then.
_OFFLOADS: dict[str, tuple[int, int, int]] = {
    "csum": (OFFLOAD_CSUM, mask(Feature.NET_CSUM), mask(Feature.NET_GUEST_CSUM)),
    "tso4": (OFFLOAD_TSO4, mask(Feature.NET_HOST_TSO4), mask(Feature.NET_GUEST_TSO4)),
    "tso6": (OFFLOAD_TSO6, mask(Feature.NET_HOST_TSO6), mask(Feature.NET_GUEST_TSO6)),
    "ufo": (OFFLOAD_UFO, mask(Feature.NET_HOST_UFO), mask(Feature.NET_GUEST_UFO)),
    "uso": (OFFLOAD_USO, mask(Feature.NET_HOST_USO), mask(Feature.NET_GUEST_USO4, Feature.NET_GUEST_USO6)),
}
_LARGE = mask(
    Feature.NET_GUEST_TSO4,
    Feature.NET_GUEST_TSO6,
    Feature.NET_GUEST_UFO,
    Feature.NET_GUEST_USO4,
    Feature.NET_GUEST_USO6,
)
# 5.1.3.1: features that are nothing without one of others, which come first.
_REQUIRE = (
    (sum(sent for _bit, sent, _taken in _OFFLOADS.values()), mask(Feature.NET_CSUM)),
    (sum(taken for _bit, _sent, taken in _OFFLOADS.values()), mask(Feature.NET_GUEST_CSUM)),
    (mask(Feature.NET_HOST_ECN), mask(Feature.NET_HOST_TSO4, Feature.NET_HOST_TSO6)),
    (mask(Feature.NET_GUEST_ECN), mask(Feature.NET_GUEST_TSO4, Feature.NET_GUEST_TSO6)),
)
PROTOCOL_FEATURES = sum(1 << feature for feature in ProtocolFeature)


@dataclass(frozen=True)
class VirtioUserOptions:
    """Settings of a virtio-user port. What the back end does not offer is done without, unless said otherwise."""

    path: Annotated[str, MinLen(1), Doc("Socket of the back end.")]
    mode: Annotated[
        Literal["client", "server"], Doc("client: connect to a back end that listens. server: listen for one.")
    ] = "client"
    queues: Annotated[int, Interval(ge=1, le=128), Doc("Queue pairs; the back end must have as many.")] = 1
    ring: Annotated[int, Interval(ge=2, le=32768), Doc("Descriptors of each ring; a power of two, unless packed.")] = (
        256
    )
    packed: Annotated[bool, Doc("Packed rings, which the back end must offer.")] = False
    in_order: Annotated[bool, Doc("Buffers are used in order, which the back end must offer.")] = False
    mergeable: Annotated[bool, Doc("Frames may be received over several buffers.")] = True
    indirect: Annotated[bool, Doc("Frames in several pieces are sent by indirect tables.")] = True
    event_index: Annotated[bool, Doc("Notifications are asked for by event index.")] = True
    version_1: Annotated[bool, Doc("Virtio 1.0 or later; else the legacy layout.")] = True
    offloads: Annotated[
        tuple[Offload, ...], Doc("Work left to the other side, in both directions; all of it needs csum.")
    ] = ALL_OFFLOADS
    poll: Annotated[bool, Doc("Never sleep, and ask for no interrupts.")] = True
    buffer: Annotated[
        int,
        Interval(ge=512, le=65536),
        MultipleOf(64),
        Doc("Bytes of a frame in one buffer. Receive buffers are longer where large segments cannot be merged."),
    ] = 2048
    in_place: Annotated[
        int,
        Interval(ge=0),
        Doc("Tails of at least so many bytes are not copied; they must stay as they are. 0: all is copied."),
    ] = 0
    header_apart: Annotated[bool, Doc("The virtio-net header is sent as a descriptor of its own.")] = False
    regions: Annotated[int, Interval(ge=1, le=8), Doc("Memory regions that the guest's memory is shared as.")] = 1
    guest_address: Annotated[int, Interval(ge=0), MultipleOf(4096), Doc("Where the guest sees its memory begin.")] = (
        1 << 32
    )
    mac: Annotated[str, Doc("MAC address that the guest announces.")] = "52:54:00:00:00:01"
    seconds: Annotated[float, Doc("How long the back end may take to connect or to answer.")] = 5.0


def wanted(options: VirtioUserOptions) -> int:
    """The virtio features that these settings ask for."""
    found = mask(Feature.PROTOCOL_FEATURES, Feature.ANY_LAYOUT)
    for setting, features in (
        (options.version_1, mask(Feature.VERSION_1)),
        (options.packed, mask(Feature.RING_PACKED)),
        (options.in_order, mask(Feature.IN_ORDER)),
        (options.mergeable, mask(Feature.NET_MRG_RXBUF)),
        (options.indirect, mask(Feature.RING_INDIRECT_DESC)),
        (options.event_index, mask(Feature.RING_EVENT_IDX)),
        (options.queues > 1, mask(Feature.NET_MQ)),
    ):
        found |= features if setting else 0
    for name in options.offloads:
        _bit, sent, taken = _OFFLOADS[name]
        found |= sent | taken
    if "tso4" in options.offloads or "tso6" in options.offloads:
        found |= mask(Feature.NET_HOST_ECN, Feature.NET_GUEST_ECN)
    return found


def negotiate(name: str, options: VirtioUserOptions, offered: int) -> int:
    """The features that both sides have. Raises PortError when a required one is missing."""
    if options.offloads and "csum" not in options.offloads:
        raise PortError(f"port '{name}': offloads {list(options.offloads)} cannot be without csum")
    if not options.packed and options.ring & (options.ring - 1):
        raise PortError(f"port '{name}': ring {options.ring} must be a power of two, unless packed is set")
    chosen = wanted(options) & offered
    for features, one_of in _REQUIRE:
        if not chosen & one_of:
            chosen &= ~features
    required = [Feature.RING_PACKED] * options.packed + [Feature.IN_ORDER] * options.in_order
    if options.packed and options.version_1:
        required.append(Feature.VERSION_1)
    if not chosen & mask(Feature.VERSION_1, Feature.NET_MRG_RXBUF):
        required.append(Feature.ANY_LAYOUT)  # else a receive buffer is two descriptors
    missing = mask(*required) & ~chosen
    if missing:
        raise PortError(f"port '{name}': the back end at {options.path} does not offer {', '.join(names(missing))}")
    return chosen


def transmit_offloads(features: int) -> int:
    """The OFFLOAD_ bits of what the guest may leave undone in what it sends."""
    return sum(bit for bit, sent, _taken in _OFFLOADS.values() if features & sent == sent)


def takes_large(features: int) -> bool:
    """Whether frames beyond the MTU may be received."""
    return bool(features & _LARGE)
