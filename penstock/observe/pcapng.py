"""Write captured frames as a pcapng file, which Wireshark and tshark read (draft-ietf-opsawg-pcapng).

One section: its header, an interface description per port (name, nanosecond times), an enhanced packet block per frame
(with its direction in epb_flags), and at the end an interface statistics block with what was captured and lost. The
output is whole after every frame, so a reader at the end of a pipe can follow. Pure Python, any thread, one at a time.
"""

from __future__ import annotations

import struct
import time
from typing import IO, Literal

from penstock import __version__

Direction = Literal["rx", "tx"]

_SECTION_HEADER, _INTERFACE_DESCRIPTION, _INTERFACE_STATISTICS, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 5, 6
_LINKTYPE_ETHERNET = 1
_SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS, _ISB_IFRECV, _ISB_IFDROP = 4, 2, 9, 2, 4, 5
_NANOSECONDS = b"\x09"
_DIRECTION_FLAGS = {"rx": 1, "tx": 2}  # epb_flags, bits 0 and 1: inbound, outbound


class PcapngWriter:
    """Writes to a binary stream; `interface` numbers the ports, `frame` adds to one of them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._written: list[int] = []
        header = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        self._block(_SECTION_HEADER, header + _options((_SHB_USERAPPL, f"penstock {__version__}".encode())))

    def interface(self, name: str, snaplen: int) -> int:
        """Describe a port; returns its number in this file."""
        options = _options((_IF_NAME, name.encode()), (_IF_TSRESOL, _NANOSECONDS))
        self._block(_INTERFACE_DESCRIPTION, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, snaplen) + options)
        self._written.append(0)
        return len(self._written) - 1

    def frame(self, interface: int, time_ns: int, direction: Direction, wire_length: int, data: bytes) -> None:
        """Add a frame of `wire_length` bytes of which `data` was captured, at a UNIX time in nanoseconds."""
        head = struct.pack("<IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), wire_length)
        flags = struct.pack("<I", _DIRECTION_FLAGS[direction])
        self._block(_ENHANCED_PACKET, head + _padded(data) + _options((_EPB_FLAGS, flags)))
        self._written[interface] += 1

    def statistics(self, interface: int, lost: int) -> None:
        """State how many frames were offered to the capture and how many of them it lost."""
        now = time.time_ns()
        counts = (
            (_ISB_IFRECV, struct.pack("<Q", self._written[interface] + lost)),
            (_ISB_IFDROP, struct.pack("<Q", lost)),
        )
        body = struct.pack("<III", interface, now >> 32, now & 0xFFFFFFFF) + _options(*counts)
        self._block(_INTERFACE_STATISTICS, body)

    def flush(self) -> None:
        self._stream.flush()

    def _block(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._stream.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    parts = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    return b"".join(parts) + struct.pack("<HH", 0, 0)
