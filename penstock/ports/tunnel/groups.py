"""The host's membership of the multicast groups to which tunnel ports send. The engine's main thread only."""

from __future__ import annotations

import socket
import struct
from collections import defaultdict

from penstock.ports.tunnel.routes import IpAddress, family


class Groups:
    """Memberships by tunnel port: the sockets that hold them, for IGMP and MLD are the kernel's work."""

    def __init__(self) -> None:
        self._members: defaultdict[str, dict[IpAddress, tuple[int, socket.socket]]] = defaultdict(dict)

    def join(self, port: str, group: IpAddress, index: int) -> bool:
        """Have the host be a member on the link of that index; whether it was none. Raises OSError."""
        members = self._members[port]
        if group in members:
            return False
        member = socket.socket(family(group), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            if group.version == 4:
                request = struct.pack("=4s4si", group.packed, bytes(4), index)
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = struct.pack("=16si", group.packed, index)
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError:
            member.close()
            raise
        members[group] = index, member
        return True

    def leave(self, port: str) -> None:
        """End a port's memberships."""
        for _, member in self._members.pop(port, {}).values():
            member.close()

    def joined(self) -> list[tuple[int, IpAddress]]:
        """All groups, each with the device on whose link it is."""
        found = {(index, group) for members in self._members.values() for group, (index, _) in members.items()}
        return sorted(found, key=lambda each: (each[0], each[1].packed))
