"""NORMAL forwarding as 802.1Q and ovs-vswitchd.conf.db(5) tell it (Port table: vlan_mode, tag, trunks), frame by frame.

A slow twin of datapath/normal.py with patch ports, on bytes and dictionaries. What the manual leaves open is taken from
what bridges do: frames that end inside a header are dropped, so are those from a group address and those to the
link-local groups; addresses are learned per VLAN from frames that were admitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

ETHERNET, TAG = 14, 4
TPIDS = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
SERVICE = {"802.1ad": b"\x88\xa8", "802.1q": b"\x81\x00"}


@dataclass
class NaivePort:
    """``trunks`` and ``cvlans`` empty means every VLAN; ``peer`` names the other end of a patch."""

    name: str
    bridge: str
    mode: str = "trunk"
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    cvlans: tuple[int, ...] = ()
    qinq_ethtype: str = "802.1ad"
    priority_tags: bool = False
    mtu: int = 1500
    peer: str | None = None
    protected: bool = False
    sent: list[bytes] = field(default_factory=list)
    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    drops: Counter[str] = field(default_factory=Counter)

    @property
    def native(self) -> int:
        """The VLAN of frames without a tag."""
        return 0 if self.mode == "trunk" else self.tag or 0

    def carries(self, vlan: int) -> bool:
        """Whether the port is a member of the VLAN: a native VLAN is always carried."""
        if self.mode in ("access", "dot1q-tunnel"):
            return vlan == self.tag
        if vlan == 0 and self.native:
            return False
        return not self.trunks or vlan in self.trunks or (self.native and vlan == self.native)

    def carries_customer(self, vlan: int) -> bool:
        """Whether a customer's VLAN is one that the port takes and gives."""
        return self.mode != "dot1q-tunnel" or not self.cvlans or vlan in self.cvlans

    def leaves_tagged(self, vlan: int) -> bool:
        """Whether frames of the VLAN leave with a tag."""
        if self.mode in ("access", "dot1q-tunnel"):
            return False
        return not (self.mode == "native-untagged" and vlan == self.native)

    def form(self, frame: bytes, tagged: bool, vlan: int) -> bytes:
        """A frame that is in a VLAN as it leaves here; ``tagged``: in the bridge it has the VLAN's tag."""
        if self.leaves_tagged(vlan):
            return frame if tagged or vlan == 0 else with_vlan(frame, vlan)
        if not tagged:
            return frame
        if self.priority_tags and frame[14] & 0xE0:
            return frame[:14] + bytes((frame[14] & 0xF0, 0)) + frame[16:]
        return without_tag(frame)


def tag_of(frame: bytes) -> bytes | None:
    """The outermost tag (TPID and TCI), or None; a tag that is cut off is none."""
    return frame[12:16] if frame[12:14] in TPIDS and len(frame) >= ETHERNET + TAG else None


def vlan_in(tag: bytes | None) -> int:
    """The VLAN that a tag names; 0 for a priority tag or none."""
    return int.from_bytes(tag[2:], "big") & 0xFFF if tag else 0


def with_vlan(frame: bytes, vlan: int) -> bytes:
    """The frame tagged for a VLAN, the priority of its tag kept; for VLAN 0 it is tagged only if it has a priority."""
    tag = tag_of(frame)
    if vlan == 0:
        return frame if tag and tag[2] & 0xE0 else without_tag(frame)
    rest = without_tag(frame)[12:]
    priority = int.from_bytes(tag[2:], "big") & 0xF000 if tag else 0
    return frame[:12] + (tag[:2] if tag else b"\x81\x00") + (priority | vlan).to_bytes(2, "big") + rest


def without_tag(frame: bytes) -> bytes:
    """The frame without its outermost tag."""
    return frame[:12] + frame[16:] if tag_of(frame) else frame


def payload_bytes(frame: bytes) -> int:
    """What counts against an MTU: the frame without Ethernet header and tags."""
    at = ETHERNET
    while frame[at - 2 : at] in TPIDS and len(frame) >= at + TAG:
        at += TAG
    return len(frame) - at


class NaiveSwitch:
    """Bridges whose ports may be joined by patches; ``fdb`` maps (bridge, VLAN, MAC address) to the port's name."""

    def __init__(self, ports: list[NaivePort], flood_vlans: Collection[int] = ()) -> None:
        self.flood_vlans = flood_vlans
        self.ports = {port.name: port for port in ports}
        self.fdb: dict[tuple[str, int, bytes], str] = {}

    def receive(self, name: str, frame: bytes) -> None:
        """A frame comes in by a port."""
        port = self.ports[name]
        port.rx_packets += 1
        port.rx_bytes += len(frame)
        if reason := self._forward(port, frame):
            port.drops[reason] += 1

    def _forward(self, port: NaivePort, frame: bytes) -> str | None:
        """The reason for which the frame is dropped at its entry, if it is."""
        tag = tag_of(frame)
        if len(frame) < ETHERNET or (frame[12:14] in TPIDS and tag is None):
            return "runt"
        destination, source = frame[:6], frame[6:12]
        if source[0] & 1:
            return "multicast_source"
        if destination[:5] == bytes.fromhex("0180c20000") and destination[5] < 16:
            return "reserved_multicast"
        if port.mode == "dot1q-tunnel":
            if not port.carries_customer(vlan_in(tag)):
                return "vlan_not_member"
            vlan = port.native
            frame = frame[:12] + SERVICE[port.qinq_ethtype] + vlan.to_bytes(2, "big") + frame[12:]
            tagged = True
        else:
            if port.mode == "access" and vlan_in(tag) != 0:
                return "vlan_tagged_on_access"
            vlan = vlan_in(tag) or port.native
            if not port.carries(vlan):
                return "vlan_not_member"
            tagged = tag is not None and (vlan != 0 or bool(tag[2] & 0xE0))
            frame = with_vlan(frame, vlan) if tag else frame
        known = None
        if vlan not in self.flood_vlans:
            self.fdb[port.bridge, vlan, source] = port.name
            known = None if destination[0] & 1 else self.fdb.get((port.bridge, vlan, destination))
        if known == port.name:
            return "same_port"
        if known is not None and port.protected and self.ports[known].protected:
            return "protected"
        if known is not None:
            outputs = [self.ports[known]]
        else:
            customer = vlan_in(tag_of(without_tag(frame))) if tagged else 0
            outputs = [each for each in self._others(port, vlan) if each.carries_customer(customer)]
        for other in outputs:
            self._send(other, other.form(frame, tagged, vlan))
        return None if outputs else "no_destination"

    def _others(self, port: NaivePort, vlan: int) -> list[NaivePort]:
        return [
            other
            for other in self.ports.values()
            if other is not port
            and other.bridge == port.bridge
            and other.carries(vlan)
            and not (port.protected and other.protected)
        ]

    def _send(self, port: NaivePort, frame: bytes) -> None:
        if port.peer is None and payload_bytes(frame) > port.mtu:
            port.drops["mtu_exceeded"] += 1
            return
        port.tx_packets += 1
        port.tx_bytes += len(frame)
        if port.peer is None:
            port.sent.append(frame)
        else:
            self.receive(port.peer, frame)
