"""Raw Ethernet frames in and out of a host's device, VLAN tags included.

The kernel takes the tag out of a frame it receives and hands it over beside the frame (packet(7), PACKET_AUXDATA):
`Wire` puts it back, so tests see what was on the wire.
"""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType

from penstock.demo.hosts import Host

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_AUXDATA, PACKET_MR_PROMISC = 263, 1, 8, 1
ETH_P_ALL, PACKET_OUTGOING = 0x0003, 4
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
AUXDATA = struct.Struct("=IIIHHHH")
BROADCAST = "ff:ff:ff:ff:ff:ff"
TEST_TYPE = 0x88B5  # for local experiments (IEEE 802)


def frame(
    source: str, destination: str = BROADCAST, payload: bytes = b"", vlan: int | None = None, priority: int = 0
) -> bytes:
    """A frame of the local-experiment type, tagged when a VLAN is given."""
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, priority << 13 | vlan)
    header = _mac(destination) + _mac(source) + tag + struct.pack("!H", TEST_TYPE)
    return (header + payload).ljust(60, b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Wire:
    """A packet socket on a host's device: `send` frames, and `received` gives what came in since it was opened."""

    def __init__(self, host: Host, link: str = "eth0") -> None:
        with host.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            index = socket.if_nametoindex(link)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.setsockopt(
            SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, b"")
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((link, ETH_P_ALL))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        self._socket.setblocking(True)
        for each in frames:
            self._socket.send(each)

    def fileno(self) -> int:
        return self._socket.fileno()

    def received(self, seconds: float = 0.3, kind: int = TEST_TYPE) -> list[bytes]:
        """Frames of this type that came in, up to `seconds` from now."""
        deadline = time.monotonic() + seconds
        found = []
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                whole = self._next()
            except TimeoutError:
                break
            if whole is not None and _type_of(whole) == kind:
                found.append(whole)
        return found

    def waiting(self) -> list[bytes]:
        """Frames of any type that have come in by now."""
        self._socket.setblocking(False)
        found = []
        while True:
            try:
                whole = self._next()
            except BlockingIOError:
                return found
            if whole is not None:
                found.append(whole)

    def _next(self) -> bytes | None:
        """The next frame at the socket, None if it is one that was sent."""
        data, control, _flags, address = self._socket.recvmsg(65600, 256)
        return None if address[2] == PACKET_OUTGOING else _with_tag(data, control)


def _with_tag(data: bytes, control: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, value in control:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _length, _snaplen, _mac_offset, _net_offset, tci, tpid = AUXDATA.unpack(value[: AUXDATA.size])
            if status & TP_STATUS_VLAN_VALID:
                protocol = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return data[:12] + struct.pack("!HH", protocol, tci) + data[12:]
    return data


def _type_of(whole: bytes) -> int:
    return int.from_bytes(whole[12:14] if vlan_of(whole) is None else whole[16:18], "big")


def vlan_of(whole: bytes) -> int | None:
    """The VLAN id in a frame's tag, None when it has no tag."""
    if whole[12:14] != b"\x81\x00":
        return None
    return int.from_bytes(whole[14:16], "big") & 0x0FFF


def payload_of(whole: bytes) -> bytes:
    """What follows the type, without padding."""
    return whole[18 if vlan_of(whole) is not None else 14 :].rstrip(b"\0")
