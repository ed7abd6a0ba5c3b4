"""Pcap ports: frames from a capture file into the bridge, and what the bridge sends into a capture file.

The file to read is taken into memory when the port is opened, so that nothing done to it later can harm the worker.
The file to write gets whole frames as they would be on a wire (segmented, checksums finished), with nanosecond times;
an existing file of the same format is continued. Main thread only; the frames are moved by ``pcap_kernels``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval, MinLen

from penstock.datapath.layout import FRAME_MAX
from penstock.machine import records
from penstock.ports.base import Health, Port, PortError, RxSpec, TxSpec
from penstock.ports.pcap_file import OUR_HEADER, CaptureError, frames, whole_length
from penstock.ports.pcap_kernels import (
    PCAP_READER,
    PCAP_WRITER,
    TICKS,
    pcap_discard,
    pcap_pending,
    pcap_rx,
    pcap_tx,
)
from penstock.ports.spec import Doc

READ_MAX = 1 << 30
NANOSECONDS = 1_000_000_000
TIMER_PERIOD_MIN = 1_000_000  # at higher rates several frames go at each expiry
PCAP_MTU = 65535

_LIBC = ctypes.CDLL(None, use_errno=True)
TFD_NONBLOCK, TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


@dataclass(frozen=True)
class PcapOptions:
    """Settings of a pcap port: at least one of ``read`` and ``write``."""

    read: Annotated[str | None, MinLen(1), Doc("Capture file (pcap or pcapng) whose frames come in by the port.")] = (
        None
    )
    write: Annotated[
        str | None, MinLen(1), Doc("Capture file (pcap) for the frames that leave by the port; continued if it exists.")
    ] = None
    rate: Annotated[
        int | None, Interval(ge=1, le=10_000_000), Doc("Frames a second to replay; as fast as possible if not given.")
    ] = None
    loop: Annotated[bool, Doc("Whether the file to read begins again at its end.")] = False


def _timer(period_ns: int) -> int:
    """A descriptor that becomes readable every ``period_ns`` nanoseconds."""
    fd = int(_LIBC.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _set_timer(fd, period_ns)
    return fd


def _set_timer(fd: int, period_ns: int) -> None:
    """Change the period; 0 stops the timer."""
    period = divmod(period_ns, NANOSECONDS)
    if _LIBC.timerfd_settime(fd, 0, struct.pack("=4q", *period, *period), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Pcap(Port):
    """A port of capture files."""

    kind: ClassVar[str] = "pcap"
    Options: ClassVar[type] = PcapOptions

    def open(self) -> None:
        options = self.options
        if options.read is None and options.write is None:
            raise PortError(f"port '{self.name}': needs option 'read' or 'write', the path of a capture file")
        if options.read is not None and options.write is not None and _same(options.read, options.write):
            raise PortError(f"port '{self.name}': '{options.read}' cannot be both read and written")
        self.mtu = self.context.mtu or PCAP_MTU
        self._timer = self._file = -1
        self._stopped = False
        self._blocks: list[int] = []
        try:
            if options.read is not None:
                self._open_read(Path(options.read))
            self._open_write()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for fd in (self._timer, self._file):
            if fd >= 0:
                os.close(fd)
        self._timer = self._file = -1
        for block in self._blocks:
            self.context.arena.free(block)
        self._blocks = []

    def check(self) -> tuple[Health, str]:
        if self._timer >= 0 and not self._stopped and self._exhausted():
            _set_timer(self._timer, 0)
            self._stopped = True
        if self._file >= 0 and (code := int(self._writer["error"])):
            return "error", f"file '{self.options.write}' cannot be written: {os.strerror(code)}"
        return "up", ""

    def driver_stats(self) -> dict[str, int]:
        stats = {}
        if self.options.read is not None:
            stats["replayed"] = int(self._reader["replayed"])
        if self._file >= 0:
            stats["file_bytes"] = int(self._writer["size"])
        return stats

    def _exhausted(self) -> bool:
        return not self._reader["loop"] and bool(self._reader["next"] >= self._reader["count"])

    def _open_read(self, path: Path) -> None:
        """Take the file into memory and lay out the table of its frames."""
        try:
            size = path.stat().st_size
            if size > READ_MAX:
                raise PortError(
                    f"port '{self.name}': file '{path}' has {size} bytes, more than the {READ_MAX} that can be replayed"
                )
            self._data = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise PortError(f"port '{self.name}': file '{path}' cannot be read: {error.strerror}") from error
        try:
            table = [(frame.offset, frame.length) for frame in frames(self._data.data)]
        except CaptureError as error:
            raise PortError(f"port '{self.name}': file '{path}', {error}") from error
        self._table = np.array(table, dtype=np.int64).reshape(-1, 2)
        too_long = self._table[:, 1] > FRAME_MAX
        if too_long.any():
            offset, length = self._table[too_long.argmax()]
            raise PortError(
                f"port '{self.name}': file '{path}', offset {offset}: a frame of {length} bytes, more than {FRAME_MAX}"
            )
        self._table[:, 0] += self._data.ctypes.data
        address = self._allocate(PCAP_READER)
        self._reader = records(PCAP_READER, address)[0]
        self._reader["frames"], self._reader["count"] = self._table.ctypes.data, len(self._table)
        self._reader["loop"] = self.options.loop and len(self._table) > 0
        rate = self.options.rate
        if rate is None:
            self.rx = [RxSpec(pcap_rx.address, address, pending=pcap_pending.address)]
            return
        self._reader["interval"] = NANOSECONDS * TICKS // rate
        self._timer = _timer(max(NANOSECONDS // rate, TIMER_PERIOD_MIN))
        self.rx = [RxSpec(pcap_rx.address, address, fd=self._timer)]

    def _open_write(self) -> None:
        if self.options.write is None:
            self.tx = [TxSpec(pcap_discard.address, 0)]
            return
        path = Path(self.options.write)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
            size = self._continued(path)
        except OSError as error:
            raise PortError(f"port '{self.name}': file '{path}' cannot be written: {error.strerror}") from error
        address = self._allocate(PCAP_WRITER)
        self._writer = records(PCAP_WRITER, address)[0]
        self._writer["size"] = size
        self._writer["unix_offset"] = time.time_ns() - time.monotonic_ns()
        # One transmit queue only: the engine has its workers take turns, so records do not mix.
        self.tx = [TxSpec(pcap_tx.address, address, fd=self._file)]

    def _continued(self, path: Path) -> int:
        """Make the open file end with a whole record of ours, or begin it: its length."""
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise PortError(f"port '{self.name}': '{path}' is not a regular file")
        if status.st_size == 0:
            if os.write(self._file, OUR_HEADER) != len(OUR_HEADER):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(OUR_HEADER)
        with mmap.mmap(self._file, 0, prot=mmap.PROT_READ) as content, memoryview(content) as data:
            try:
                size = whole_length(data)
            except CaptureError as error:
                text = f"port '{self.name}': file '{path}' exists and will not be overwritten: {error}"
                raise PortError(text) from error
        os.ftruncate(self._file, size)
        return size

    def _allocate(self, dtype: np.dtype[np.void]) -> int:
        address = self.context.arena.allocate(dtype.itemsize)
        self._blocks.append(address)
        return address


def _same(first: str, second: str) -> bool:
    one, other = Path(first), Path(second)
    return one.resolve() == other.resolve()
