"""The field table: its numbers are Open vSwitch's, its layout is what the parser stores, its page is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive.packet import Parsed

from penstock.machine import offset
from penstock.packet.fields import (
    BY_NAME,
    FIELDS,
    KEY,
    KEY_SIZE,
    NXM_OF,
    OXM_OF,
    PARSED_SIZE,
    Field,
    describe,
    key_offset,
    markdown,
)

ROOT = Path(__file__).parents[2]
OWNERS = [row for row in FIELDS if not row.at]

# ovs-fields(7): name -> OXM_OF number, NXM class letter and number, width.
OVS = """
in_port 0 O0 32        eth_src 4 O2 48        eth_dst 3 O1 48        eth_type 5 O3 16       vlan_tci - O4 16
vlan_vid 6 - 12        vlan_pcp 7 - 3         mpls_label 34 - 20     mpls_tc 35 - 3         mpls_bos 36 - 1
mpls_ttl - N30 8       ip_src 11 O7 32        ip_dst 12 O8 32        ipv6_src 26 N19 128    ipv6_dst 27 N20 128
ipv6_label 28 N27 20   nw_proto 10 O6 8       nw_ttl - N29 8         ip_frag - N26 2        nw_tos - O5 8
ip_dscp 8 - 6          nw_ecn 9 N28 2         arp_op 21 O15 16       arp_spa 22 O16 32      arp_tpa 23 O17 32
arp_sha 24 N17 48      arp_tha 25 N18 48      tcp_src 13 O9 16       tcp_dst 14 O10 16      tcp_flags 42 N34 12
udp_src 15 O11 16      udp_dst 16 O12 16      sctp_src 17 - 16       sctp_dst 18 - 16       icmp_type 19 O13 8
icmp_code 20 O14 8     icmpv6_type 29 N21 8   icmpv6_code 30 N22 8   nd_target 31 N23 128   nd_sll 32 N24 48
nd_tll 33 N25 48
reg0 - N0 32   reg1 - N1 32   reg2 - N2 32   reg3 - N3 32   reg4 - N4 32
reg5 - N5 32   reg6 - N6 32   reg7 - N7 32   reg8 - N8 32   reg9 - N9 32
reg10 - N10 32   reg11 - N11 32   reg12 - N12 32   reg13 - N13 32   reg14 - N14 32
reg15 - N15 32   xxreg0 - N111 128   xxreg1 - N112 128   xxreg2 - N113 128   xxreg3 - N114 128
in_phy_port 1 - 32   actset_output 43 - 32   pkt_mark - N33 32   conj_id - N37 32   metadata 2 - 64
tun_id 38 N16 64   tun_src - N31 32   tun_dst - N32 32   tun_ipv6_src - N109 128   tun_ipv6_dst - N110 128
tun_gbp_id - N38 16   tun_gbp_flags - N39 8   tun_flags - N104 16
"""
OPTION_BITS = 64  # of tun_metadata: Open vSwitch's have 992 bits, and are 64 fields
OPTIONS = {f"tun_metadata{n}": 40 + n for n in range(8)}
OURS = {"inner_vlan_tci", "inner_vlan_vid", "inner_vlan_pcp"} | {f"xreg{n}" for n in range(8)}


def test_numbers_are_those_of_ovs_fields() -> None:
    rows = re.findall(r"(\w+) (-|\d+) (-|[ON]\d+) (\d+)", OVS)
    assert {name for name, *_ in rows} | OURS | set(OPTIONS) == {row.name for row in FIELDS}
    for name, number in OPTIONS.items():
        assert (BY_NAME[name].bits, BY_NAME[name].oxm, BY_NAME[name].nxm) == (OPTION_BITS, None, (1, number))
    for name, oxm, nxm, bits in rows:
        row = BY_NAME[name]
        assert row.bits == int(bits), name
        assert row.oxm == (None if oxm == "-" else (OXM_OF, int(oxm))), name
        assert row.nxm == (None if nxm == "-" else (NXM_OF if nxm[0] == "O" else 1, int(nxm[1:]))), name


def test_names_and_aliases_are_unique() -> None:
    names = [row.name for row in FIELDS] + [row.alias for row in FIELDS if row.alias]
    assert len(names) == len(set(names)) == len(BY_NAME)


def test_layout() -> None:
    places = {"in_port": 0, "eth_dst": 8, "eth_type": 14, "eth_src": 16, "vlan_tci": 22, "ip_src": 24, "ip_dst": 28}
    places |= {"nw_ttl": 32, "nw_proto": 33, "nw_tos": 34, "ip_frag": 35, "tcp_src": 36, "tcp_dst": 38, "tcp_flags": 40}
    places |= {"inner_vlan_tci": 42, "mpls_label": 44, "ipv6_src": 48, "ipv6_dst": 64, "ipv6_label": 80}
    places |= {"in_phy_port": 4, "actset_output": 84, "nd_target": 88, "nd_sll": 104, "nd_tll": 112}
    places |= {"pkt_mark": 120, "conj_id": 124, "metadata": 128, "tun_id": 136, "tun_src": 144, "tun_dst": 148}
    places |= {f"tun_metadata{n}": 192 + 8 * n for n in range(8)}
    places |= {f"reg{n}": 256 + 4 * n for n in range(16)} | {"tun_ipv6_src": 152, "tun_ipv6_dst": 168}
    places |= {"tun_gbp_id": 184, "tun_flags": 186, "tun_gbp_flags": 188}
    assert {row.name: key_offset(row.name) for row in OWNERS} == places
    assert (PARSED_SIZE, KEY_SIZE, KEY.itemsize) == (128, 320, 320)


def test_fields_that_own_bytes_do_not_overlap() -> None:
    claimed = [byte for row in OWNERS for byte in range(row.offset, row.offset + row.size)]
    assert len(claimed) == len(set(claimed))
    assert max(claimed) < KEY_SIZE


def test_numpy_sees_the_same_key() -> None:
    key = bytes(place % 251 for place in range(KEY_SIZE))
    record = np.frombuffer(key, KEY)[0]
    for row in OWNERS:
        assert offset(KEY, row.name) == row.offset
        value = record[row.name]
        number = int.from_bytes(bytes(value), "big") if value.shape else int(value)
        assert number >> row.shift & ((1 << row.bits) - 1) == row.read(key), row.name


def test_reading_bits_of_a_word() -> None:
    key = bytearray(KEY_SIZE)
    key[22:24], key[34], key[44:48] = b"\xb0\x64", 0xB9, b"\x00\x01\x07\x40"
    values = {name: BY_NAME[name].read(bytes(key)) for name in ("vlan_vid", "vlan_pcp", "ip_dscp", "ip_ecn")}
    assert values == {"vlan_vid": 100, "vlan_pcp": 5, "ip_dscp": 46, "ip_ecn": 1}
    values = {name: BY_NAME[name].read(bytes(key)) for name in ("mpls_label", "mpls_tc", "mpls_bos", "mpls_ttl")}
    assert values == {"mpls_label": 16, "mpls_tc": 3, "mpls_bos": 1, "mpls_ttl": 64}


def test_joined_registers() -> None:
    key = bytearray(KEY_SIZE)
    key[256:272] = bytes(range(16))
    assert BY_NAME["reg1"].read(key) == 0x04050607
    assert BY_NAME["xreg1"].read(key) == 0x08090A0B0C0D0E0F
    assert BY_NAME["xxreg0"].read(key) == int.from_bytes(range(16), "big")
    assert "reg1" in describe(bytes(key))
    assert "xreg1" not in describe(bytes(key))


@given(st.data())
def test_every_field_reads_back(data: st.DataObject) -> None:
    row: Field = data.draw(st.sampled_from(FIELDS))
    value = data.draw(st.integers(0, 2**row.bits - 1))
    assert row.read(Parsed({row.name: value}).key()) == value
    assert row.format(value)


TEXTS = [
    ("eth_dst", 0x0200000000FF, "02:00:00:00:00:ff"), ("eth_type", 0x800, "0x0800"), ("ip_src", 0x0A000001, "10.0.0.1"),
    ("ipv6_src", 1, "::1"), ("ipv6_label", 5, "0x00005"), ("nw_proto", 6, "6"), ("nw_tos", 0xB9, "184"),
    ("ip_frag", 0, "no"), ("ip_frag", 1, "first"), ("ip_frag", 3, "later"), ("tcp_flags", 0x12, "syn|ack"),
    ("tcp_flags", 0, "0"), ("tcp_flags", 0x800, "[11]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "text"), TEXTS)
def test_text(name: str, value: int, text: str) -> None:
    assert BY_NAME[name].format(value) == text


def test_describe_leaves_out_what_the_packet_has_not() -> None:
    assert list(describe(bytes(KEY_SIZE))) == ["in_port", "eth_dst", "eth_type", "eth_src", "vlan_tci"]
    later = Parsed({"eth_type": 0x800, "nw_proto": 17, "ip_frag": 3}).key()
    assert "udp_src" not in describe(later)
    first = Parsed({"eth_type": 0x800, "nw_proto": 17, "ip_frag": 1}).key()
    assert "udp_src" in describe(first)


def test_describe_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="flow key of 4 bytes: must be 320 bytes"):
        describe(bytes(4))


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "fields.md").read_text() == markdown()


def test_the_page_is_what_the_module_prints() -> None:
    command = [sys.executable, "-m", "penstock.packet.fields"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout == markdown()
