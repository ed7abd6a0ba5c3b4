"""A packet socket with a memory-mapped receive ring, bound to one net device (packet(7), linux/if_packet.h).

Slots hold a 64 KB segment with its headers. They are packed 15 to a block of 1 MB, 69,888 bytes apart, so that the
first lines of neighbouring slots fall into different sets of the first-level cache. Main thread only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct

from penstock.datapath.layout import FRAME_MAX
from penstock.machine import load_acquire32, store_release32
from penstock.ports.packet_kernels import STATUS_KERNEL, STATUS_USER

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_RESERVE = 1, 5, 6, 10, 12
PACKET_VNET_HDR, PACKET_FANOUT, PACKET_IGNORE_OUTGOING = 15, 18, 23
TPACKET_V2 = 1
PACKET_MR_PROMISC = 1
FANOUT_HASH, FANOUT_UNIQUE_ID, FANOUT_IGNORE_OUTGOING = 0, 0x2000, 0x4000
ETH_P_ALL = 3
SO_SNDBUFFORCE = 32

BLOCK = 1 << 20
SLOTS_PER_BLOCK = 15
SLOT = BLOCK // SLOTS_PER_BLOCK // 64 * 64
RESERVE = 116  # puts frames at byte 192 of their slot, a cache line's start, with 140 free bytes before
FRAME_AT = 192
assert FRAME_AT + FRAME_MAX <= SLOT
SEND_BUFFER = 8 << 20

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class PacketSocket:
    """One receive ring and the socket it belongs to. Raises OSError where the kernel refuses."""

    def __init__(self, index: int, slots: int) -> None:
        blocks = -(-slots // SLOTS_PER_BLOCK)
        self._bytes = blocks * BLOCK
        self._base = 0
        self.drops = 0
        self.first = 0  # index of the slot that the kernel fills first
        # Protocol 0: nothing is received until bind names the device.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            self._set(PACKET_VERSION, TPACKET_V2)
            self._set(PACKET_RESERVE, RESERVE)
            self._set(PACKET_VNET_HDR, 1)
            self._set_if_known(PACKET_IGNORE_OUTGOING, 1)
            self._grow_send_buffer()
            ring = struct.pack("=4I", BLOCK, blocks, SLOT, blocks * SLOTS_PER_BLOCK)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
            self._base = self._map()
            self._socket.setsockopt(
                SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8x", index, PACKET_MR_PROMISC, 0)
            )
            self._bind(index)
        except BaseException:
            self.close()
            raise
        starts = (self._base + block * BLOCK for block in range(blocks))
        self.slots = [start + i * SLOT for start in starts for i in range(SLOTS_PER_BLOCK)]

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def join(self, group: int | None) -> int:
        """Share the device's frames with other sockets, flow by flow: a new group or an existing one; its number."""
        if group is None:
            try:
                self._fanout(FANOUT_HASH | FANOUT_UNIQUE_ID | FANOUT_IGNORE_OUTGOING, 0)
            except OSError as error:  # before Linux 5.10; such frames are then left out one by one
                if error.errno != errno.EINVAL:
                    raise
                self._fanout(FANOUT_HASH | FANOUT_UNIQUE_ID, 0)
            return self._socket.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        try:
            self._fanout(FANOUT_HASH | FANOUT_IGNORE_OUTGOING, group)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._fanout(FANOUT_HASH, group)
        return group

    def discard(self) -> None:
        """Drop what was received so far: frames that came before the socket had joined its group came to others too."""
        while load_acquire32(self.slots[self.first]) & STATUS_USER:
            store_release32(self.slots[self.first], STATUS_KERNEL)
            self.first = (self.first + 1) % len(self.slots)

    def count_drops(self) -> int:
        """Frames that found the ring full, since the socket was made (the kernel's counter restarts at each read)."""
        _packets, drops = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.drops += drops
        return self.drops

    def close(self) -> None:
        if self._base:
            _LIBC.munmap(self._base, self._bytes)
            self._base = 0
        self._socket.close()

    def _set(self, option: int, value: int) -> None:
        self._socket.setsockopt(SOL_PACKET, option, value)

    def _set_if_known(self, option: int, value: int) -> None:
        try:
            self._set(option, value)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise

    def _fanout(self, kind: int, group: int) -> None:
        self._set(PACKET_FANOUT, group | kind << 16)

    def _grow_send_buffer(self) -> None:
        """Room for a burst of 64 KB segments that a driver holds for a while; as much as allowed without the right."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def _map(self) -> int:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _LIBC.mmap(None, self._bytes, protection, mmap.MAP_SHARED, self.fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(address)

    def _bind(self, index: int) -> None:
        """Bind by index: the name may change."""
        family, protocol = struct.pack("=H", socket.AF_PACKET), struct.pack("!H", ETH_P_ALL)
        address = family + protocol + struct.pack("=iHBB8x", index, 0, 0, 0)
        if _LIBC.bind(self.fd, address, len(address)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
