"""The TLV map of one pipeline in the region of flow tables, where it outlives control process and engine as flows do.

It is replaced as a whole, by the store of one pointer. The control process's loop thread alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.datapath.pipeline.layout import PIPELINE, PIPELINE_TLVS, TLV_MAP
from penstock.engine.flow_region import FlowRegion
from penstock.machine import records, store_release
from penstock.packet.fields import BY_NAME


@dataclass(frozen=True)
class Mapping:
    """An option of Geneve by class and type, bytes of its value, and which tun_metadata field it is."""

    option_class: int
    option_type: int
    octets: int
    number: int

    @property
    def field(self) -> str:
        """The field's name."""
        return f"tun_metadata{self.number}"

    @property
    def kind(self) -> int:
        """Class and type as a worker loads them."""
        octets = self.option_class.to_bytes(2, "big") + bytes([self.option_type])
        return int.from_bytes(octets, "little")


def _mapping(kind: int, octets: int, number: int) -> Mapping:
    data = kind.to_bytes(3, "little")
    return Mapping(int.from_bytes(data[:2], "big"), data[2], octets, number)


class TlvMap:
    """The map of the pipeline at an address."""

    def __init__(self, region: FlowRegion, pipeline: int) -> None:
        self._region, self._pipeline = region, pipeline

    @property
    def _address(self) -> int:
        return int(records(PIPELINE, self._pipeline)[0]["tlvs"])

    def mappings(self) -> list[Mapping]:
        """What there is, by number."""
        if not self._address:
            return []
        row = records(TLV_MAP, self._address)[0]
        rows = row["tlvs"][: int(row["count"])]
        found = [_mapping(int(tlv["kind"]), int(tlv["octets"]), int(tlv["number"])) for tlv in rows]
        return sorted(found, key=lambda each: each.number)

    def replace(self, mappings: Sequence[Mapping]) -> None:
        """Have workers see these from now on. Raises RegionError when the region is full."""
        old = self._address
        address = 0
        if mappings:
            address = self._region.allocate(TLV_MAP.itemsize)
            row = records(TLV_MAP, address)[0]
            row["count"] = len(mappings)
            for place, each in enumerate(mappings):
                row["tlvs"][place] = (each.kind, each.octets, BY_NAME[each.field].offset, each.number)
        store_release(self._pipeline + PIPELINE_TLVS, address)
        if old:
            self._region.defer(lambda: self._region.release(old, TLV_MAP.itemsize))
