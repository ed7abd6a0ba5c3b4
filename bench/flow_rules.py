"""Flow entries for the benchmarks of flow tables, as ovs-ofctl reads them, and frames that match them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.frames import FRAME_BYTES, mac

SOURCE_PREFIXES, DESTINATION_PREFIXES, PORTS = (32, 28, 24, 16), (32, 24, 20), (True, False)  # 24 masks
UDP = 17
PORTS_END = 65536


@dataclass(frozen=True)
class Rule:
    """A match on UDP: addresses with prefixes, and a destination port or any (0)."""

    source: int
    source_prefix: int
    destination: int
    destination_prefix: int
    port: int
    priority: int

    def text(self, action: str) -> str:
        """The flow entry."""
        parts = [
            f"priority={self.priority}", "udp", f"nw_src={_dotted(self.source)}/{self.source_prefix}",
            f"nw_dst={_dotted(self.destination)}/{self.destination_prefix}",
        ]  # fmt: skip
        parts += [f"tp_dst={self.port}"] if self.port else []
        return ",".join([*parts, f"actions={action}"])

    def frame(self, rng: random.Random) -> bytes:
        """A frame that matches; what the rule leaves open is at random."""
        source = self.source | rng.getrandbits(32 - self.source_prefix) if self.source_prefix < 32 else self.source
        spare = 32 - self.destination_prefix
        destination = self.destination | (rng.getrandbits(spare) if spare else 0)
        return flow_frame(source, destination, rng.randrange(1024, PORTS_END), self.port or rng.randrange(1, PORTS_END))


def _dotted(address: int) -> str:
    return ".".join(map(str, address.to_bytes(4, "big")))


def flow_frame(source: int, destination: int, source_port: int, destination_port: int) -> bytes:
    """A 64-byte UDP frame between two stations, of any addresses and ports."""
    payload = FRAME_BYTES - 14 - 20 - 8
    addresses = struct.pack("!II", source, destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + payload, 0, 0x4000, 64, UDP, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ip = head[:10] + struct.pack("!H", checksum) + head[12:]
    udp = struct.pack("!HHHH", source_port, destination_port, 8 + payload, 0)
    return mac(1) + mac(2) + b"\x08\x00" + ip + udp + bytes(payload)


def many_masks(count: int, seed: int = 1) -> list[Rule]:
    """So many rules, spread over 24 masks."""
    rng = random.Random(seed)
    masks = [(s, d, p) for s in SOURCE_PREFIXES for d in DESTINATION_PREFIXES for p in PORTS]
    rules = []
    for index in range(count):
        source_prefix, destination_prefix, has_port = masks[index % len(masks)]
        source = rng.getrandbits(32) >> 32 - source_prefix << 32 - source_prefix
        destination = rng.getrandbits(32) >> 32 - destination_prefix << 32 - destination_prefix
        port = rng.randrange(1, PORTS_END) if has_port else 0
        rules.append(Rule(source, source_prefix, destination, destination_prefix, port, 100 + index % len(masks)))
    return rules


def frames_of(rules: Sequence[Rule], count: int, seed: int = 2) -> Iterator[bytes]:
    """So many frames, each of a flow of its own as far as its rule leaves anything open."""
    rng = random.Random(seed)
    return (rules[index % len(rules)].frame(rng) for index in range(count))


def random_frames(count: int, seed: int = 3) -> Iterator[bytes]:
    """So many frames, each with addresses and ports at random."""
    rng = random.Random(seed)
    return (
        flow_frame(rng.getrandbits(32), rng.getrandbits(32), rng.randrange(PORTS_END), rng.randrange(PORTS_END))
        for _ in range(count)
    )


def five_tuples(count: int, seed: int = 4) -> list[str]:
    """Flow entries that name all five; and a last one, for whatever they do not, that outputs to the second port.

    The masks of addresses are no prefixes, so that no switch can tell by a few bits alone that none of them matches.
    """
    rng = random.Random(seed)
    mask = 0xFFFFFFFB
    exact = [
        f"priority=100,udp,nw_src={_dotted(rng.getrandbits(32) & mask)}/{_dotted(mask)},"
        f"nw_dst={_dotted(rng.getrandbits(32) & mask)}/{_dotted(mask)},"
        f"tp_src={rng.randrange(PORTS_END)},tp_dst={rng.randrange(PORTS_END)},actions=drop"
        for _ in range(count)
    ]
    return [*exact, "priority=1,udp,actions=output:2", "priority=0,actions=drop"]


# What an operator allows, each by one field of four: source and destination address, source and destination port.
ALLOWED = (0x0A000001, 0xC0A80A0A, 12345, 80)
FIELD_BITS = (32, 32, 16, 16)
VICTIMS = 1000  # flows


def few_allowed() -> list[str]:
    """Flow entries that allow a few, by one field each, and drop the rest."""
    source, destination, source_port, destination_port = ALLOWED
    return [
        f"priority=400,udp,tp_dst={destination_port},actions=output:2",
        f"priority=300,udp,tp_src={source_port},actions=output:2",
        f"priority=200,udp,nw_src={_dotted(source)},actions=output:2",
        f"priority=100,udp,nw_dst={_dotted(destination)},actions=output:2",
        "priority=0,actions=drop",
    ]


def victims_frames(count: int, seed: int = 5) -> Iterator[bytes]:
    """So many frames of VICTIMS flows that are allowed by their destination port."""
    rng = random.Random(seed)
    frames = [
        flow_frame(rng.getrandbits(32), rng.getrandbits(32), rng.randrange(1024, PORTS_END), ALLOWED[3])
        for _ in range(min(count, VICTIMS))
    ]
    return (frames[index % len(frames)] for index in range(count))


def attacked_frames(count: int, every: int = 32, seed: int = 6) -> Iterator[bytes]:
    """The same, but each ``every``-th frame is an attacker's.

    Those share in each field some first bits with what is allowed, the next bit differs, and the rest is at random: a
    switch that caches decisions by the bits that led to them needs a mask for each combination of such lengths
    (Csikor and others, "Tuple Space Explosion", CoNEXT 2019). All are dropped.
    """
    rng = random.Random(seed)
    victims = victims_frames(count)
    return (_near_miss(rng) if index % every == 0 else frame for index, frame in enumerate(victims))


def _near_miss(rng: random.Random) -> bytes:
    values = []
    for allowed, bits in zip(ALLOWED, FIELD_BITS, strict=True):
        spare = rng.randrange(bits)  # bits behind the one that differs
        values.append((allowed ^ 1 << spare) >> spare << spare | rng.getrandbits(spare) if spare else allowed ^ 1)
    return flow_frame(*values)
