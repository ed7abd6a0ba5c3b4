"""Why a frame was dropped: every reason declared once, for kernels (the index), counters, CLI text and docs.

A reason counts against a port and a direction: ``rx`` at the port where the frame came in, ``tx`` at the port it was
to leave by.
"""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One drop reason. ``name`` is what the operator sees, ``text`` says what happened and what helps."""

    name: str
    direction: str
    text: str


REASONS: tuple[Reason, ...] = (
    Reason("runt", "rx", "shorter than an Ethernet header, or cut off in its VLAN tag"),
    Reason("oversized", "rx", "longer than a receive buffer, which holds 64 KB and headers"),
    Reason("bad_offload", "rx", "the sender's offload header contradicts the frame (segment size, checksum position)"),
    Reason("bad_descriptor", "rx", "the guest's buffers do not hold a frame, or are not all in its memory"),
    Reason("multicast_source", "rx", "the source MAC address is a multicast address"),
    Reason(
        "reserved_multicast", "rx", "for a link-local group address (01:80:c2:00:00:0x), which bridges do not forward"
    ),
    Reason("vlan_not_member", "rx", "the port is not a member of the frame's VLAN: see its tag and trunks"),
    Reason("vlan_tagged_on_access", "rx", "a tagged frame came in on an access port"),
    Reason("same_port", "rx", "the destination was learned on the port that the frame came from"),
    Reason("no_destination", "rx", "flooded, but no other port is a member of the VLAN"),
    Reason("patch_loop", "rx", "crossed too many patch ports and tunnels: is there a loop between bridges?"),
    Reason("ingress_down", "rx", "the port is down: frames from it are not forwarded"),
    Reason("port_down", "tx", "the port is down or its device is gone"),
    Reason("mtu_exceeded", "tx", "longer than the MTU of the port it was to leave by"),
    Reason("tx_ring_full", "tx", "the receiver takes frames slower than they come"),
    Reason("buffers_too_small", "tx", "longer than a receive buffer of the guest, which does not merge buffers"),
    Reason("tx_rejected", "tx", "the receiving device refused the frame or its offload header"),
    Reason("no_buffers", "tx", "no free packet buffer to copy or segment the frame"),
    Reason("cannot_finish", "tx", "a large segment or open checksum that neither the port nor software can finish"),
    Reason("not_written", "tx", "the pcap port has no file to write to"),
    Reason("no_peer", "tx", "the patch port's peer does not exist"),
    Reason("no_flow", "rx", "no flow of the table matched, and its miss setting is to drop"),
    Reason("flow_drop", "rx", "the flows that matched send it nowhere"),
    Reason("no_such_port", "rx", "a flow sends it to a port that does not exist or must not forward"),
    Reason("output_to_in_port", "rx", "a flow sends it to the port that it came in by, which only IN_PORT does"),
    Reason("meter", "rx", "a meter's drop band was exceeded"),
    Reason("ttl_expired", "rx", "its time to live ran out"),
    Reason("no_live_bucket", "rx", "no bucket of the group is live"),
    Reason("pipeline_loop", "rx", "flows resubmit it too often, or too deep"),
    Reason("fragment", "rx", "an IP fragment, which the bridge is set to drop"),
    Reason("not_received", "rx", "OpenFlow forbids the port to receive"),
    Reason("headers_too_long", "tx", "its headers became longer than a packet buffer holds: tunnels within tunnels?"),
    Reason("tunnel_no_remote", "tx", "no remote address: the flow sets no tun_dst, or the VLAN has no VNI or far end"),
    Reason("tunnel_unresolved", "tx", "the way to the remote address is not known yet, and enough frames wait for it"),
    Reason("tunnel_header", "rx", "the tunnel header is cut off, or has a reserved bit or an unknown critical option"),
    Reason("tunnel_unknown", "rx", "no tunnel port is for this key and remote address"),
    Reason("tunnel_checksum", "rx", "the checksum of the outer packet is wrong"),
    Reason(
        "ingress_policed", "rx", "more than the port's ingress_policing_rate or ingress_policing_kpkts_rate lets in"
    ),
    Reason("protected", "rx", "from one protected port to another: see 'protected' of both"),
    Reason("tunnel_congested", "rx", "congestion was met on the way of a packet that cannot be marked (RFC 6040)"),
)

(
    RUNT,
    OVERSIZED,
    BAD_OFFLOAD,
    BAD_DESCRIPTOR,
    MULTICAST_SOURCE,
    RESERVED_MULTICAST,
    VLAN_NOT_MEMBER,
    VLAN_TAGGED_ON_ACCESS,
    SAME_PORT,
    NO_DESTINATION,
    PATCH_LOOP,
    INGRESS_DOWN,
    PORT_DOWN,
    MTU_EXCEEDED,
    TX_RING_FULL,
    BUFFERS_TOO_SMALL,
    TX_REJECTED,
    NO_BUFFERS,
    CANNOT_FINISH,
    NOT_WRITTEN,
    NO_PEER,
    NO_FLOW,
    FLOW_DROP,
    NO_SUCH_PORT,
    OUTPUT_TO_IN_PORT,
    METER_DROP,
    TTL_EXPIRED,
    NO_LIVE_BUCKET,
    PIPELINE_LOOP,
    FRAGMENT_DROP,
    NOT_RECEIVED,
    HEADERS_TOO_LONG,
    TUNNEL_NO_REMOTE,
    TUNNEL_UNRESOLVED,
    TUNNEL_HEADER,
    TUNNEL_UNKNOWN,
    TUNNEL_CHECKSUM,
    INGRESS_POLICED,
    PROTECTED,
    TUNNEL_CONGESTED,
) = range(len(REASONS))
