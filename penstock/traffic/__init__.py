"""Traffic by any kind of port: generator, sink, latency, and RFC 2544's throughput search.

A process of traffic has its own arena and opens its ports itself; no engine is involved. `virtio_user` is the kind of
port that is a guest's side of vhost-user. What a generated frame carries
is in `layout`, what is sent in `stream`.
"""

from penstock.traffic.driver import Driver
from penstock.traffic.endpoint import KINDS, Endpoint, Queue, Queues
from penstock.traffic.generator import Generator, Timed
from penstock.traffic.sink import Counts, Sink
from penstock.traffic.stream import Stream, StreamError

__all__ = [
    "KINDS",
    "Counts",
    "Driver",
    "Endpoint",
    "Generator",
    "Queue",
    "Queues",
    "Sink",
    "Stream",
    "StreamError",
    "Timed",
]
