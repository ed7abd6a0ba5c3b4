"""What tables can do, as OpenFlow 1.3 asks for it (1.3.5, section 7.3.5.5.2): the same for each table."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from penstock.engine.flow_tables import TABLES
from penstock.openflow.action_wire import Instruction
from penstock.openflow.compile import ACTIONS, FOLLOWS, READ_ONLY
from penstock.openflow.match import OPENFLOW_BASIC, wire_of
from penstock.openflow.wire import tlv
from penstock.packet.fields import FIELDS, Field

(
    INSTRUCTIONS, INSTRUCTIONS_MISS, NEXT_TABLES, NEXT_TABLES_MISS, WRITE_ACTIONS, WRITE_ACTIONS_MISS, APPLY_ACTIONS,
    APPLY_ACTIONS_MISS, MATCH, _NONE, WILDCARDS, _NONE2, WRITE_SETFIELD, WRITE_SETFIELD_MISS, APPLY_SETFIELD,
    APPLY_SETFIELD_MISS,
) = range(16)  # fmt: skip


def _field_ids(rows: list[Field], masked: bool) -> bytes:
    out = bytearray()
    for row in rows:
        wire = wire_of(row)
        assert wire is not None
        out += struct.pack("!I", wire.header(masked=masked and row.maskable))
    return bytes(out)


def _is_basic(row: Field) -> bool:
    return row.oxm is not None and row.oxm[0] == OPENFLOW_BASIC


_MATCHED = [row for row in FIELDS if _is_basic(row)]
_SET = [row for row in _MATCHED if row.name not in READ_ONLY and (row.name in FOLLOWS or row.kept)]
_ACTION_IDS = b"".join(struct.pack("!HH", kind, 4) for kind in sorted(ACTIONS))
_COMMON = b"".join(
    [
        *(tlv(kind, _ACTION_IDS) for kind in range(WRITE_ACTIONS, APPLY_ACTIONS_MISS + 1)),
        tlv(MATCH, _field_ids(_MATCHED, masked=True)),
        tlv(WILDCARDS, _field_ids(_MATCHED, masked=False)),
        *(
            tlv(kind, _field_ids(_SET, masked=False))
            for kind in (WRITE_SETFIELD, WRITE_SETFIELD_MISS, APPLY_SETFIELD, APPLY_SETFIELD_MISS)
        ),
    ]
)


def table_features(limit_of: Callable[[int], int]) -> Iterator[bytes]:
    """ofp_table_features of every table; ``limit_of`` a table are the flows that it may hold."""
    everything = (1 << 64) - 1
    for table in range(TABLES):
        last = table == TABLES - 1
        instructions = [each for each in Instruction if not (last and each == Instruction.GOTO_TABLE)]
        ids = b"".join(struct.pack("!HH", each, 4) for each in instructions)
        following = bytes(range(table + 1, TABLES))
        body = b"".join(
            [
                tlv(INSTRUCTIONS, ids),
                tlv(INSTRUCTIONS_MISS, ids),
                tlv(NEXT_TABLES, following),
                tlv(NEXT_TABLES_MISS, following),
                _COMMON,
            ]
        )
        name = (b"classifier" if table == 0 else b"table%d" % table).ljust(32, b"\0")
        yield (
            struct.pack("!HB5x32sQQII", 64 + len(body), table, name, everything, everything, 3, limit_of(table)) + body
        )
