"""Group-mods as bytes. OpenFlow 1.3.5, section 7.3.4.2."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.openflow.wire import BAD_LEN, ErrorType, OpenFlowError

ADD, MODIFY, DELETE = range(3)
GROUP_MAX, GROUP_ALL, GROUP_ANY = 0xFFFFFF00, 0xFFFFFFFC, 0xFFFFFFFF
ALL, SELECT, INDIRECT, FAST_FAILOVER = range(4)
BUCKET = struct.Struct("!HHII4x")
GROUP_EXISTS, INVALID_GROUP, OUT_OF_BUCKETS, LOOP, UNKNOWN_GROUP, CHAINED_GROUP, BAD_TYPE, BAD_COMMAND = (
    0, 1, 4, 7, 8, 9, 10, 11,
)  # fmt: skip
BAD_BUCKET, BAD_WATCH = 12, 13
BUCKETS_MAX = 1024
ACTION_BITS = sum(1 << each for each in (0, 11, 12, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25))


def group_error(code: int, why: str) -> OpenFlowError:
    """The error for a group-mod."""
    return OpenFlowError(ErrorType.GROUP_MOD_FAILED, code, why)


@dataclass(frozen=True, slots=True)
class GroupMod:
    """A group-mod; ``buckets`` as OpenFlow 1.3 writes them."""

    command: int
    kind: int
    number: int
    buckets: bytes = b""


def decode_group_mod(body: memoryview) -> GroupMod:
    """From the body of an OFPT_GROUP_MOD of 1.3."""
    command, kind, number = struct.unpack_from("!HBxI", body)
    return GroupMod(command, kind, number, bytes(body[8:]))


def split_buckets(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Weight, watched port, watched group and actions of each bucket."""
    at = 0
    while at < len(data):
        if len(data) - at < BUCKET.size:
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"{len(data) - at} bytes are left of the buckets")
        length, weight, port, group = BUCKET.unpack_from(data, at)
        if length < BUCKET.size or length % 8 or at + length > len(data):
            raise group_error(BAD_BUCKET, f"a bucket of {length} bytes does not fit")
        yield weight, port, group, data[at + BUCKET.size : at + length]
        at += length
