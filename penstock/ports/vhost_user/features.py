"""The settings of a vhost-user port, and which virtio features a guest is offered under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, MinLen

from penstock.datapath.layout import OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO, OFFLOAD_USO
from penstock.ports.spec import Doc
from penstock.ports.vhost_user.layout import QUEUES_MAX
from penstock.ports.vhost_user.virtio import Feature, mask

BASIC = mask(
    Feature.NET_MTU,
    Feature.NET_STATUS,
    Feature.NET_CTRL_VQ,
    Feature.NET_CTRL_RX,
    Feature.NET_CTRL_VLAN,
    Feature.NET_CTRL_MAC_ADDR,
    Feature.NET_GUEST_ANNOUNCE,
    Feature.NET_MRG_RXBUF,
    Feature.LOG_ALL,
    Feature.ANY_LAYOUT,
    Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX,
    Feature.PROTOCOL_FEATURES,
    Feature.VERSION_1,
    Feature.IN_ORDER,
)
OFFLOADS = mask(
    Feature.NET_CSUM,
    Feature.NET_GUEST_CSUM,
    Feature.NET_GUEST_TSO4,
    Feature.NET_GUEST_TSO6,
    Feature.NET_GUEST_ECN,
    Feature.NET_GUEST_UFO,
    Feature.NET_GUEST_USO4,
    Feature.NET_GUEST_USO6,
    Feature.NET_HOST_TSO4,
    Feature.NET_HOST_TSO6,
    Feature.NET_HOST_ECN,
    Feature.NET_HOST_UFO,
    Feature.NET_HOST_USO,
)
TAKEN = (  # what the port takes in transmit when its guest has agreed to these features
    (OFFLOAD_CSUM, mask(Feature.NET_GUEST_CSUM)),
    (OFFLOAD_TSO4, mask(Feature.NET_GUEST_TSO4)),
    (OFFLOAD_TSO6, mask(Feature.NET_GUEST_TSO6)),
    (OFFLOAD_UFO, mask(Feature.NET_GUEST_UFO)),
    (OFFLOAD_USO, mask(Feature.NET_GUEST_USO4, Feature.NET_GUEST_USO6)),
)


@dataclass(frozen=True)
class VhostUserOptions:
    """Settings of a vhost-user port."""

    path: Annotated[str, MinLen(1), Doc("The UNIX socket to talk to the virtual machine's program over.")]
    mode: Annotated[
        Literal["server", "client"],
        Doc("`server`: the switch listens at `path`; `client`: it connects there, and again whenever that ends."),
    ] = "server"
    queues: Annotated[
        int,
        Interval(ge=1, le=QUEUES_MAX),
        Doc("Pairs of queues that the guest may use."),
    ] = 1
    offloads: Annotated[
        bool, Doc("Whether the guest may leave checksums and segmentation to others, and take both unfinished.")
    ] = True
    packed: Annotated[bool, Doc("Whether the guest may use packed rings.")] = True


def offered_features(options: VhostUserOptions) -> int:
    """The feature word that a guest may choose from."""
    features = BASIC
    if options.offloads:
        features |= OFFLOADS
    if options.packed:
        features |= mask(Feature.RING_PACKED)
    if options.queues > 1:
        features |= mask(Feature.NET_MQ)
    return features


def taken_offloads(features: int) -> int:
    """OFFLOAD_ bits of what a guest with these features takes unfinished."""
    return sum(bit for bit, needed in TAKEN if features & needed == needed)
