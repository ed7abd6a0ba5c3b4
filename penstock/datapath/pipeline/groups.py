"""Which bucket of a group a packet goes to.

``select`` is weighted rendezvous hashing: of a hash h of the packet's flow and the bucket, seen as a fraction, the live
bucket with the least -log(h) / weight is taken. Each has its share of the flows by weight, and the loss of one moves
only its own flows. A bucket is live when its watched port is up or its watched group has a live bucket; one that
watches nothing always is.
"""

from __future__ import annotations

from penstock.datapath.layout import PORT_BYTES, PORT_UP, packet_at, port_at, worker_at
from penstock.datapath.pipeline.layout import (
    BUCKET_ITEM,
    BUCKETS_AT,
    GROUP_FAST_FAILOVER,
    GROUP_INDIRECT,
    exec_at,
    group_bucket_at,
    group_buckets_at,
)
from penstock.datapath.pipeline.outputs import OFPPC_PORT_DOWN, engine_number
from penstock.datapath.pipeline.program import PORT_ANY
from penstock.machine import clz, hash64, kernel, load64, load_acquire, shr
from penstock.machine.crc import crc32c_64
from penstock.packet.fields import key_offset

WATCH_DEPTH = 8
BOW = 22713  # how far the logarithm is above a straight line between powers of two: 0.3466 in units of 2**-16
ETH_DST, ETH_SRC, IP_SRC, L4 = map(key_offset, ("eth_dst", "eth_src", "ip_src", "tcp_src"))
IPV6_SRC, IPV6_DST = key_offset("ipv6_src"), key_offset("ipv6_dst")
PROTO_MASK = 0xFFFFFFFF_0000FF00 - (1 << 64)  # of the word with TTL, protocol, TOS, fragment bits and ports


@kernel
def flow_hash(key):
    """A hash of what makes a flow: addresses, VLAN, protocol and ports."""
    value = crc32c_64(0, load64(key + ETH_DST))
    value = crc32c_64(value, load64(key + ETH_SRC))
    value = crc32c_64(value, load64(key + IP_SRC))
    value = crc32c_64(value, load64(key + (L4 & ~7)) & PROTO_MASK)
    for offset in (0, 8):
        value = crc32c_64(value, load64(key + IPV6_SRC + offset))
        value = crc32c_64(value, load64(key + IPV6_DST + offset))
    return value


@kernel
def port_is_live(worker, pipeline, port):
    """Whether the port of this OpenFlow number is up, and not forbidden to be."""
    number = engine_number(pipeline, port)
    if number == 0:
        return 0
    row = port_at(worker_at(worker).ports + number * PORT_BYTES)
    return int(row.state == PORT_UP and row.of_config & OFPPC_PORT_DOWN == 0)


@kernel
def is_live(worker, pipeline, bucket):
    """Whether a bucket is live."""
    for _ in range(WATCH_DEPTH):
        b = group_bucket_at(bucket)
        if b.watch_port == PORT_ANY and b.watch_group == 0:
            return 1
        if b.watch_port != PORT_ANY and port_is_live(worker, pipeline, b.watch_port) == 1:
            return 1
        if b.watch_group == 0:
            return 0
        # A watched group is live by any of its buckets: the first decides whom to ask next.
        buckets = load_acquire(b.watch_group)
        bucket = 0
        for i in range(group_buckets_at(buckets).count):
            each = buckets + BUCKETS_AT + i * BUCKET_ITEM
            other = group_bucket_at(each)
            if other.watch_port == PORT_ANY and other.watch_group == 0:
                return 1
            if other.watch_port != PORT_ANY and port_is_live(worker, pipeline, other.watch_port) == 1:
                return 1
            if other.watch_group != 0 and bucket == 0:
                bucket = each
        if bucket == 0:
            return 0
    return 0


@kernel
def minus_log(value):
    """-log2 of a fraction given as 32 bits, in units of 2**-16; within 1 %."""
    value = value & 0xFFFFFFFF | 1
    zeros = clz(value) - 32
    rest = (value << zeros >> 15) & 0xFFFF  # behind the leading one
    return (zeros + 1 << 16) - rest - (BOW * rest * (0x10000 - rest) >> 32)


@kernel
def choose_bucket(worker, x, buckets):
    """The bucket of a group of any kind but ALL for the packet: its address; 0 when none is live."""
    e = exec_at(x)
    kind = group_buckets_at(buckets).kind
    count = group_buckets_at(buckets).count
    if kind == GROUP_INDIRECT:
        return buckets + BUCKETS_AT if count > 0 else 0
    value = 0
    if kind != GROUP_FAST_FAILOVER:
        value = flow_hash(packet_at(e.packet).key)
    best = 0
    score = 0
    weight = 0
    for i in range(count):
        bucket = buckets + BUCKETS_AT + i * BUCKET_ITEM
        if is_live(worker, e.pipeline, bucket) == 0:
            continue
        if kind == GROUP_FAST_FAILOVER:
            return bucket
        b = group_bucket_at(bucket)
        own = minus_log(shr(hash64(value | b.number << 32), 31))  # its upper 32 bits
        if b.weight > 0 and (best == 0 or own * weight < score * b.weight):
            score = own
            weight = b.weight
            best = bucket
    return best
