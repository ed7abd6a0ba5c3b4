"""Kinds of port. Adding one is a module here and its class in the tuple below."""

from penstock.ports.base import Port, PortContext, PortError, RxSpec, TxSpec
from penstock.ports.dummy import Dummy
from penstock.ports.patch import Patch

KINDS: dict[str, type[Port]] = {kind.kind: kind for kind in (Patch, Dummy)}

__all__ = ["KINDS", "Port", "PortContext", "PortError", "RxSpec", "TxSpec"]
