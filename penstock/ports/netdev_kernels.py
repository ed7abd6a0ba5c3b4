"""What a kernel device's refusal of a frame means in terms of drop reasons. Runs on the worker that transmits."""

from __future__ import annotations

import errno

from penstock.datapath.drops import MTU_EXCEEDED, NO_BUFFERS, PORT_DOWN, TX_REJECTED, TX_RING_FULL
from penstock.machine import kernel

EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM = errno.EAGAIN, errno.EINTR, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM
EIO, ENXIO, ENODEV, EBADFD, ENETDOWN = errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADFD, errno.ENETDOWN


@kernel
def drop_reason(code):
    """The drop reason for a positive errno from a transmitting system call."""
    if code == EAGAIN or code == ENOBUFS:
        return TX_RING_FULL
    if code == EIO or code == ENXIO or code == ENODEV or code == EBADFD or code == ENETDOWN:
        return PORT_DOWN  # EIO is a TAP that is down, EBADFD one that was deleted
    if code == EMSGSIZE:
        return MTU_EXCEEDED
    if code == ENOMEM:
        return NO_BUFFERS
    return TX_REJECTED
