"""Kinds of port. Adding one is a module here and its class in the tuple below."""

from penstock.ports.base import Port, PortContext, PortError, RxSpec, TxSpec
from penstock.ports.dummy import Dummy
from penstock.ports.internal import Internal
from penstock.ports.packet import Packet
from penstock.ports.patch import Patch
from penstock.ports.pcap import Pcap
from penstock.ports.tap import Tap
from penstock.ports.tunnel.port import Geneve, Gre, Vxlan
from penstock.ports.vhost_user.port import VhostUser

KINDS: dict[str, type[Port]] = {
    kind.kind: kind for kind in (VhostUser, Tap, Packet, Internal, Patch, Vxlan, Geneve, Gre, Pcap, Dummy)
}

__all__ = ["KINDS", "Port", "PortContext", "PortError", "RxSpec", "TxSpec"]
