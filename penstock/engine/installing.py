"""Ports put into the engine and taken out, many at a time: workers are waited for once. The main thread's alone.

Everything workers follow is prepared first, then published by a pointer or state store; what is taken away is
unpublished, then a quiet point is awaited, then it is freed. One that cannot be made keeps none of the others out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from penstock.datapath.fdb import FOREVER, fdb_expire
from penstock.datapath.layout import PORT_DOWN, PORT_UP, RXQ
from penstock.engine.beside import host_devices, link_patches
from penstock.engine.open_port import EngineFault, OpenPort, check_name, naming
from penstock.engine.tables import OFPORT_LOCAL
from penstock.machine import records
from penstock.memory import ArenaError
from penstock.ports import KINDS, PortError
from penstock.ports.netdev import delete_devices
from penstock.ports.spec import PortSpec

if TYPE_CHECKING:
    from penstock.engine.engine import Engine

LOG = logging.getLogger("penstock.engine")


def add_ports(engine: Engine, specs: Iterable[PortSpec]) -> list[str]:
    """Open ports and let them forward: for each what went wrong, or ""."""
    errors: list[str] = []
    opened: dict[int, OpenPort] = {}
    try:
        for place, spec in enumerate(specs):
            try:
                opened[place] = _open(engine, spec)
                errors.append("")
            except EngineFault as error:
                errors.append(str(error))
        unused = _show(engine, list(opened.values()))
        # Not before: the first frame of a port goes to all the others.
        for place, each in opened.items():
            errors[place] = _serve(engine, each)
        _publish(engine, list(opened.values()), unused)
    except BaseException:
        # Whatever went wrong, nothing half-made stays.
        _uninstall(engine, list(opened.values()))
        raise
    _uninstall(engine, [each for place, each in opened.items() if errors[place]])
    for place, each in opened.items():
        if not errors[place]:
            each.port.start()
    return errors


def remove_ports(engine: Engine, names: Iterable[str]) -> list[str]:
    """Stop ports' forwarding and close them: for each what went wrong, or ""."""
    errors: list[str] = []
    going: dict[str, OpenPort] = {}
    for name in names:
        try:
            going[name] = engine.port(name)
            errors.append("")
        except EngineFault as error:
            errors.append(str(error))
    for opened in going.values():
        opened.port.stop()
    _uninstall(engine, list(going.values()))
    return errors


def _open(engine: Engine, spec: PortSpec) -> OpenPort:
    """A port with its queues, which no worker knows of yet. Raises EngineFault."""
    bridge, _ = engine.bridge(spec.bridge)
    check_name("port", spec.name)
    if spec.name in engine.ports:
        raise EngineFault(f"port '{spec.name}' exists already, on bridge '{engine.ports[spec.name].spec.bridge}'")
    if spec.kind not in KINDS:
        raise EngineFault(f"port '{spec.name}': type '{spec.kind}' is unknown; known are: {', '.join(sorted(KINDS))}")
    kind = KINDS[spec.kind]
    try:
        number = engine.tables.free_port_number()
        port = kind(spec.name, kind.Options(**spec.options), engine.context(spec))
        port.open()
    except (LookupError, TypeError, PortError, ArenaError, OSError) as error:
        raise EngineFault(naming(spec.name, error)) from error
    opened = OpenPort(number, spec, port)
    try:
        _install(engine, opened, bridge)
    except BaseException as error:
        _uninstall(engine, [opened])
        if isinstance(error, ArenaError | OSError):
            raise EngineFault(naming(spec.name, error)) from error
        raise
    return opened


def _install(engine: Engine, opened: OpenPort, bridge: int) -> None:
    port, spec, number, tables = opened.port, opened.spec, opened.number, engine.tables
    opened.ofport = _ofport(engine, spec, bridge)
    row = tables.add_port(number, spec.name, bridge, spec.vlan, port.mtu, port.egress)
    tables.set_ofport(number, opened.ofport)
    row["tunnel"] = port.tunnel
    row["of_config"] = tables.protection(spec)
    row["policer"] = tables.policer(spec.policing, engine.workers.cycles_hz)
    if port.vlans:
        tables.carry_vlans(number, port.vlans)
    scratch = [(int(worker.row["tx_scratch"]), int(worker.row["after"])) for worker in engine.workers.all]
    opened.locks = tables.set_txqs(number, port.tx, port.offloads, scratch)
    engine.ports[spec.name] = opened
    row["state"] = PORT_UP
    opened.check(tables.ports[opened.number])
    for each in port.rx:
        rxq = engine.arena.allocate(RXQ.itemsize)
        row = records(RXQ, rxq)[0]
        row["rx"], row["release"], row["pending"], row["arm"] = each.rx, each.release, each.pending, each.arm
        row["ctx"], row["fd"], row["port"] = each.ctx, each.fd, number
        opened.rxqs.append(rxq)


def _ofport(engine: Engine, spec: PortSpec, bridge: int) -> int:
    """The OpenFlow number that a port asks for, or one that is free in its bridge."""
    if spec.kind == "internal" and spec.name == spec.bridge:
        return OFPORT_LOCAL
    if spec.ofport is None:
        return engine.tables.free_ofport(bridge)
    for other in engine.ports.values():
        if other.spec.bridge == spec.bridge and other.ofport == spec.ofport:
            raise EngineFault(f"port '{spec.name}': OpenFlow port {spec.ofport} is port '{other.spec.name}' already")
    return spec.ofport


def _show(engine: Engine, changed: Sequence[OpenPort]) -> list[int]:
    """Show workers bridges as they are with or without these ports, and ports one another: what is unused then."""
    unused = engine.publish_members({each.spec.bridge for each in changed})
    link_patches(engine.ports, engine.tables)
    engine.underlay.set_internal(host_devices(engine.ports))
    return unused


def _serve(engine: Engine, opened: OpenPort) -> str:
    """Deal a port's queues to workers, which may be told of frames at once: what went wrong, or ""."""
    try:
        for rxq in opened.rxqs:
            engine.workers.deal(rxq)
    except OSError as error:
        return naming(opened.spec.name, error)
    return ""


def _publish(engine: Engine, changed: Sequence[OpenPort], unused: list[int]) -> None:
    """Have workers follow the lists of queues with or without those of these ports, and free what is unused then."""
    if any(each.rxqs for each in changed):
        unused += engine.workers.publish_lists()
    if changed:
        engine.workers.quiesce()
    for each in unused:
        engine.arena.free(each)


def _uninstall(engine: Engine, going: Sequence[OpenPort]) -> None:
    """Take ports out, however far they have come."""
    shown = []
    for opened in going:
        engine.ports.pop(opened.spec.name, None)
        row = engine.tables.ports[opened.number]
        if row["name"]:
            shown.append(opened)
            row["state"] = PORT_DOWN
            for rxq in opened.rxqs:
                engine.workers.withdraw(rxq)
    if shown:
        _publish(engine, shown, _show(engine, shown))
        for opened in shown:
            bridge, _ = engine.bridge(opened.spec.bridge)
            fdb_expire(int(engine.tables.bridges[bridge]["fdb"]), FOREVER, opened.number, 0)
        engine.workers.quiesce()
    for opened in shown:
        for address in (*opened.rxqs, *([opened.locks] if opened.locks else [])):
            engine.arena.free(address)
        engine.tables.clear_port(opened.number)
    try:
        delete_devices([index for opened in going if (index := opened.port.device_to_delete())])
    except OSError as error:
        LOG.warning("devices of ports are deleted one at a time, as together they cannot be: %s", error)
    for opened in going:
        opened.port.close()
