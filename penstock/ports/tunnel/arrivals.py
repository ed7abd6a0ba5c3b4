"""Which arriving packets are for which tunnel port, as workers are told it. The engine's main thread only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from penstock.datapath.tunnel.layout import CLASSES_MAX, LOCALS_MAX, SERVICES_MAX, VALID, VLAN_SHIFT
from penstock.memory import Arena
from penstock.ports.base import PortError
from penstock.ports.tunnel.memory import GrowingMap, make_arrivals
from penstock.ports.tunnel.plan import GRE_SERVICE, TunnelPlan
from penstock.ports.tunnel.routes import Local

LOG = logging.getLogger(__name__)

FREE = -1  # in place of a service


def check_beside(plan: TunnelPlan, others: Sequence[TunnelPlan]) -> None:
    """Raise PortError when arriving packets could not be told to be for this port or for one of the others."""
    for other in others:
        if plan.udp_port and plan.udp_port == other.udp_port and plan.shape.kind != other.shape.kind:
            raise PortError(
                f"port '{plan.name}': UDP port {plan.udp_port} has tunnels of another type already, port '{other.name}'"
            )
        if plan.service != other.service or plan.arrival_class != other.arrival_class:
            continue
        same = plan.remote == other.remote and plan.local == other.local
        keys = set(plan.vnis.values()) & set(other.vnis.values())
        if same and (keys or (not plan.vnis and not other.vnis and plan.in_key == other.in_key)):
            raise PortError(f"port '{plan.name}': port '{other.name}' is for the same packets already (key, addresses)")
    if len({each.service for each in (plan, *others)}) > SERVICES_MAX:
        raise PortError(f"port '{plan.name}': more than {SERVICES_MAX} UDP ports of tunnels")


class Arrivals:
    """The map of arrivals, and the ARRIVALS that ``publish`` shows to workers."""

    def __init__(self, arena: Arena, publish: Callable[[int], None], quiesce: Callable[[], None]) -> None:
        self._arena, self._publish, self._quiesce = arena, publish, quiesce
        self._address = 0
        self._begun: dict[str, tuple[TunnelPlan, list[int]]] = {}
        self._services: list[int] = []
        self._locals: Sequence[Local] = ()
        self._map = GrowingMap(arena, lambda table: self._show(table), quiesce)

    def begin(self, plan: TunnelPlan, number: int) -> None:
        """Let packets arrive for a tunnel port with that number."""
        if plan.service not in self._services:
            free = self._services.index(FREE) if FREE in self._services else len(self._services)
            self._services[free : free + 1] = [plan.service]
        keys: list[int] = []
        self._begun[plan.name] = plan, keys
        for key, vlan in plan.arrivals(self._services.index(plan.service)):
            self._map.put(key, number | vlan << VLAN_SHIFT | VALID)
            keys.append(key)
        self._show(self._map.address)

    def end(self, name: str) -> None:
        """Let no more packets arrive for a tunnel port."""
        _plan, keys = self._begun.pop(name)
        for key in keys:
            self._map.put(key, 0)
        used = {plan.service for plan, _keys in self._begun.values()}
        self._services = [service if service in used else FREE for service in self._services]
        self._show(self._map.address)

    def set_locals(self, addresses: Sequence[Local]) -> None:
        """Say to what addresses, at which internal ports, packets may come."""
        if addresses == self._locals:
            return
        for version in (4, 6):
            count = sum(1 for _, each in addresses if each.version == version)
            if count > LOCALS_MAX:
                LOG.warning(
                    "tunnels end at %d of the host's %d IPv%d addresses on internal ports: no room for more",
                    LOCALS_MAX,
                    count,
                    version,
                )
        self._locals = addresses
        self._show(self._map.address)

    def _show(self, table: int) -> None:
        classes = {plan.arrival_class for plan, _keys in self._begun.values()}
        # The one that says most comes first, and the key says more than addresses do.
        order = sorted(classes, key=lambda kind: [not kind & bit for bit in (1, 2, 4)])
        assert len(order) <= CLASSES_MAX
        gre = self._services.index(GRE_SERVICE) if GRE_SERVICE in self._services else -1
        old = self._address
        self._address = make_arrivals(self._arena, table, self._services, gre, order, self._locals)
        self._publish(self._address)
        self._quiesce()
        if old:
            self._arena.free(old)
