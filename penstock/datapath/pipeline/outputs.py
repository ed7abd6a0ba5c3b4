"""Where packets leave a pipeline: ports, reserved ports, controllers.

An output waits (``EXEC.pending``) until it is known whether the packet is changed or sent again: only then a copy is
made, and the last output takes the packet itself. Outputs of the same form share one copy, but what
does not go to a device gets its own, for what lies behind may change it.
"""

from __future__ import annotations

from penstock.datapath.clones import clone, drop
from penstock.datapath.drops import NO_SUCH_PORT, OUTPUT_TO_IN_PORT, PROTECTED
from penstock.datapath.handover import make_packet_in, packet_in_at, send_packet_in
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    EGRESS_DEVICE,
    EGRESS_TUNNEL,
    MEMBER_PORTS,
    PORT_BYTES,
    PORT_UP,
    PROTECTED_PORT,
    VLAN_OF_TUNNEL,
    bridge_at,
    config_at,
    members_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import append
from penstock.datapath.pipeline.layout import PORT_MAP, exec_at, flow_at, pipeline_at
from penstock.datapath.pipeline.program import (
    PORT_ALL,
    PORT_ANY,
    PORT_CONTROLLER,
    PORT_FLOOD,
    PORT_IN_PORT,
    PORT_LOCAL,
    PORT_NORMAL,
)
from penstock.datapath.tags import VID_MASK, set_form
from penstock.datapath.trace import OUTPUT, PUNTED, note
from penstock.machine import call4, inlined, kernel, load16, load16be, load32, load32be, store64
from penstock.packet.fields import key_offset

NONE = PORT_ANY
IN_PORT, VLAN_TCI = key_offset("in_port"), key_offset("vlan_tci")
OFPPC_PORT_DOWN = 1 << 0  # ofp_port_config: bits of PORT.of_config
NO_FLOOD = 1 << 4
NO_PACKET_IN = 1 << 6
NO_FWD = 1 << 5
NO_RECV = 1 << 2

REASON_NO_MATCH, REASON_ACTION, REASON_INVALID_TTL, REASON_ACTION_SET, REASON_GROUP, REASON_PACKET_OUT = range(6)
WHOLE = 0xFFFF


@kernel
def packet_in(worker, x, flow, table, reason, controller, max_len, user_data):
    """Hand the packet to the control process for a controller: 1, or 0 when there was no room.

    ``table`` holds when no flow sent it.
    """
    w = worker_at(worker)
    e = exec_at(x)
    if w.trace != 0:
        return note(w.trace, PUNTED, e.number, reason)
    if port_at(w.ports + e.number * PORT_BYTES).of_config & NO_PACKET_IN != 0 and reason == REASON_NO_MATCH:
        return 0
    record = make_packet_in(worker, e.packet, e.number)
    if record == 0:
        return 0
    r = packet_in_at(record)
    r.pipeline = e.pipeline
    r.reason = reason
    r.table = table
    r.cookie = -1
    if flow != 0:
        r.table = flow_at(flow).table
        r.cookie = flow_at(flow).cookie
    r.controller = controller
    r.user_data = user_data
    r.max_len = max_len
    return send_packet_in(worker)


@kernel
def shared_form(worker, x, number):
    """The copy of the packet as it is, made when first asked for; 0 when there is no buffer for it."""
    e = exec_at(x)
    if e.form == 0:
        e.form = clone(worker, number, e.packet)
    return e.form


@kernel
def leave_vlan(config, packet):
    """For a tunnel port that tells networks by VLAN: take the tag off, and let the packet be for all far ends."""
    p = packet_at(packet)
    if config_at(config).mode == VLAN_OF_TUNNEL:
        p.vid = load16be(p.key + VLAN_TCI) & VID_MASK
        p.remote = 0
        set_form(packet, 0)
    return 0


@inlined
def protection(worker, number):
    """The bit that ports have with which a port exchanges nothing; 0: there are none."""
    return port_at(worker_at(worker).ports + number * PORT_BYTES).of_config & PROTECTED_PORT


@kernel
def send_to_port(worker, x, number, last):
    """Queue the packet for a port by its engine number: itself if this is the ``last`` use of it, else a copy."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    if port.of_config & NO_FWD != 0:
        return drop(worker, exec_at(x).number, NO_SUCH_PORT)
    if port.of_config & protection(worker, exec_at(x).number) != 0:
        return drop(worker, exec_at(x).number, PROTECTED)
    packet = exec_at(x).packet
    if last == 0:
        if port.egress != EGRESS_DEVICE:
            packet = clone(worker, number, packet)
        else:
            packet = shared_form(worker, x, number)
        if packet == 0:
            return 0
    if port.egress == EGRESS_TUNNEL:
        leave_vlan(port.config, packet)
    if w.trace != 0:
        note(w.trace, OUTPUT, number, 0)
    return append(worker, number, packet)


@kernel
def send_to_all(worker, x, flood):
    """Queue copies for every other port of the bridge, with ``flood`` those only that do not refuse flooding."""
    w = worker_at(worker)
    e = exec_at(x)
    members = bridge_at(w.bridges + pipeline_at(e.pipeline).bridge * BRIDGE_BYTES).members
    barred = protection(worker, e.number) | (NO_FLOOD if flood == 1 else 0)
    for i in range(members_at(members).count):
        other = load32(members + MEMBER_PORTS + i * 4)
        port = port_at(w.ports + other * PORT_BYTES)
        if other == e.number or port.state != PORT_UP or port.of_config & barred != 0:
            continue
        send_to_port(worker, x, other, 0)
    return 0


@kernel
def send_normal(worker, x, last):
    """Have the packet forwarded as a learning switch does, from the port it came in by."""
    w = worker_at(worker)
    e = exec_at(x)
    packet = e.packet
    if last == 0:
        packet = clone(worker, e.number, packet)
        if packet == 0:
            return 0
    store64(e.single, packet)
    return call4(w.normal, worker, e.number, e.single, 1)


@kernel
def engine_number(pipeline, port):
    """The engine's number of an OpenFlow port that is no reserved one but LOCAL; 0: there is none."""
    q = pipeline_at(pipeline)
    if port < PORT_MAP:
        return load16(q.ports + port * 2)
    if port == PORT_LOCAL:
        return q.local
    return 0


@kernel
def send(worker, x, port, last):
    """Carry out one output."""
    e = exec_at(x)
    if port == PORT_NORMAL:
        return send_normal(worker, x, last)
    if port == PORT_FLOOD or port == PORT_ALL:
        return send_to_all(worker, x, int(port == PORT_FLOOD))
    if port == PORT_IN_PORT:
        return send_to_port(worker, x, e.number, last)
    if port == load32be(packet_at(e.packet).key + IN_PORT):
        return drop(worker, e.number, OUTPUT_TO_IN_PORT)
    number = engine_number(e.pipeline, port)
    if number == 0:
        return drop(worker, e.number, NO_SUCH_PORT)
    return send_to_port(worker, x, number, last)


@kernel
def settle(worker, x):
    """Carry out the output that waits, before the packet is changed."""
    e = exec_at(x)
    if e.pending != NONE:
        send(worker, x, e.pending, 0)
        e.pending = NONE
    e.form = 0
    return 0


@kernel
def output(worker, x, port):
    """Have the packet as it is leave by a port."""
    e = exec_at(x)
    e.outputs += 1
    if port == PORT_CONTROLLER:
        return packet_in(worker, x, 0, 0, REASON_ACTION, 0, WHOLE, 0)
    if e.pending != NONE:
        send(worker, x, e.pending, 0)
    e.pending = port
    return 0


@kernel
def finish_output(worker, x):
    """Carry out the output that waits with the packet itself: nothing more is done with it."""
    e = exec_at(x)
    if e.pending != NONE:
        send(worker, x, e.pending, 1)
        e.pending = NONE
    e.form = 0
    return 0
