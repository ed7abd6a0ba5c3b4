"""Flow tables the slow way: every flow looked at for every packet."""

from __future__ import annotations

from dataclasses import dataclass, field

from naive.packet import parse

from penstock.packet.fields import KEY_SIZE


@dataclass
class NaiveFlow:
    """A flow that outputs to ports, writes bits of the key, and goes on in another table, if ``goto`` is not None."""

    table: int
    priority: int
    key: bytes
    mask: bytes
    outputs: tuple[int, ...]
    goto: int | None = None
    written: int = 0  # with the bits in ``write_mask``
    write_mask: int = 0
    packets: int = 0

    def matches(self, key: int) -> bool:
        return (key ^ int.from_bytes(self.key, "big")) & int.from_bytes(self.mask, "big") == 0


@dataclass
class NaivePipeline:
    """Flows in any order; of equal priority and match the latest counts."""

    flows: list[NaiveFlow] = field(default_factory=list)

    def add(self, flow: NaiveFlow) -> None:
        self.flows = [
            each
            for each in self.flows
            if (each.table, each.priority, each.key, each.mask) != (flow.table, flow.priority, flow.key, flow.mask)
        ]
        self.flows.append(flow)

    def receive(self, port: int, frame: bytes) -> list[int]:
        """The ports that a frame leaves by."""
        parsed = parse(frame)
        parsed.fields["in_port"] = parsed.fields["in_phy_port"] = port
        key = int.from_bytes(parsed.key(), "big")
        outputs: list[int] = []
        table: int | None = 0
        while table is not None:
            found = [each for each in self.flows if each.table == table and each.matches(key)]
            if not found:
                break
            best = max(found, key=lambda each: each.priority)
            best.packets += 1
            outputs += [each for each in best.outputs if each != port]
            key = key & ~best.write_mask | best.written
            table = best.goto
        return outputs


assert KEY_SIZE % 8 == 0
