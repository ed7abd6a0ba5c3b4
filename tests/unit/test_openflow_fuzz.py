"""OpenFlow connections that talk nonsense: an OpenFlow error or the end of the connection, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.openflow.match import encode_13
from penstock.openflow.match10 import encode_10
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.wire import HEADER, OF10, OF13, TYPES, OpenFlowError, Stream, Type, message
from tests.unit.openflow_support import FakeHost
from tests.unit.test_openflow_text import FLOWS


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


def flow_mod_13(text: str) -> bytes:
    mod = parse_flow(text, {})
    head = struct.pack(
        "!QQBBHHHIIIH2x", mod.cookie, 0, mod.table, 0, mod.idle, mod.hard, mod.priority, 0xFFFFFFFF, 0, 0, 0
    )
    return message(OF13, Type.FLOW_MOD, 1, head + encode_13(mod.match) + mod.instructions)


def flow_mod_10() -> bytes:
    match = encode_10(parse_flow("tcp,in_port=1,tp_dst=80,actions=drop", {}).match)
    head = struct.pack("!QHHHHIHH", 5, 0, 1, 2, 3, 0xFFFFFFFF, 0xFFFF, 0)
    return message(OF10, Type.FLOW_MOD, 1, match + head + struct.pack("!HHHH", 0, 8, 2, 0))


def group_mod() -> bytes:
    bucket = struct.pack("!HHII4x", 32, 1, 0xFFFFFFFF, 0xFFFFFFFF) + struct.pack("!HHIH6x", 0, 16, 2, 0)
    return message(OF13, Type.GROUP_MOD, 1, struct.pack("!HBxI", 0, 1, 9) + bucket)


def meter_mod() -> bytes:
    band = struct.pack("!HHIIB3x", 1, 16, 100, 10, 0)
    return message(OF13, Type.METER_MOD, 1, struct.pack("!HHI", 0, 1, 3) + band)


def bundle() -> bytes:
    inner = flow_mod_13(FLOWS[1])
    opened = message(OF13, Type.EXPERIMENTER, 1, struct.pack("!IIIHH", 0x4F4E4600, 2300, 7, 0, 3))
    added = message(OF13, Type.EXPERIMENTER, 1, struct.pack("!IIIHH", 0x4F4E4600, 2301, 7, 0, 3) + inner)
    return opened + added + message(OF13, Type.EXPERIMENTER, 1, struct.pack("!IIIHH", 0x4F4E4600, 2300, 7, 4, 3))


MESSAGES = [
    *(flow_mod_13(text) for text in FLOWS if "group" not in text and "meter" not in text),
    flow_mod_10(), group_mod(), meter_mod(), bundle(),
    message(OF13, Type.PACKET_OUT, 1, struct.pack("!IIH6xHHIH6x", 0xFFFFFFFF, 1, 16, 0, 16, 2, 0) + bytes(60)),
    *(message(OF13, Type.MULTIPART_REQUEST, 1, struct.pack("!HH4x", kind, 0) + bytes(40)) for kind in range(14)),
    *(message(OF10, Type.MULTIPART_REQUEST, 1, struct.pack("!HH", kind, 0) + bytes(44)) for kind in range(6)),
    message(OF10, Type.EXPERIMENTER, 1, struct.pack("!IIQHHHHIHHH6x", 0x2320, 13, 1, 0, 0, 0, 9, 2**32 - 1, 9, 0, 0)),
    message(OF10, Type.EXPERIMENTER, 1, struct.pack("!IIB7x", 0x2320, 15, 1)),
    message(OF13, Type.EXPERIMENTER, 1, struct.pack("!IIH6xHBBH2x", 0x2320, 24, 0, 0x102, 0x80, 4, 0)),
    message(OF13, Type.EXPERIMENTER, 1, struct.pack("!IIH6x", 0x2320, 24, 2)),
    message(OF13, Type.EXPERIMENTER, 1, struct.pack("!II", 0x2320, 25)),
    message(OF13, Type.ROLE_REQUEST, 1, struct.pack("!I4xQ", 2, 5)),
    message(OF13, Type.SET_ASYNC, 1, bytes(24)),
    message(OF13, Type.PORT_MOD, 1, struct.pack("!I4x6s2xIII4x", 1, bytes.fromhex("020000000001"), 0, 0, 0)),
]  # fmt: skip


def check(host: FakeHost, data: bytes, version: int) -> None:
    """The answer is made of whole OpenFlow messages of the version, and the host is as sound as before."""
    answer = host.talk(data, version)
    for raw in Stream().feed(answer):
        assert raw.version in (version, OF13)
        assert raw.number in TYPES[raw.version]
    length = sum(HEADER.unpack_from(each.data)[2] for each in Stream().feed(answer))
    assert length == len(answer)
    assert host.talk(message(version, Type.ECHO_REQUEST, 5, b"sound"), version).endswith(b"sound")


@pytest.mark.parametrize("index", range(len(MESSAGES)))
def test_the_messages_to_be_spoilt_are_answered(host: FakeHost, index: int) -> None:
    check(host, MESSAGES[index], MESSAGES[index][0])


@settings(max_examples=400)
@given(st.sampled_from(MESSAGES), st.data())
def test_spoilt_messages(host: FakeHost, whole: bytes, data: st.DataObject) -> None:
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(4, len(spoilt) - 1))
        spoilt[at] = data.draw(st.integers(0, 255))
    check(host, bytes(spoilt), whole[0])


@settings(max_examples=200)
@given(st.sampled_from(MESSAGES), st.data())
def test_shortened_and_lengthened_messages(host: FakeHost, whole: bytes, data: st.DataObject) -> None:
    body = whole[8 : data.draw(st.integers(8, len(whole)))] + data.draw(st.binary(max_size=64))
    version, kind, _length, xid = HEADER.unpack_from(whole)
    check(host, HEADER.pack(version, kind, 8 + len(body), xid) + body, version)


@settings(max_examples=200)
@given(st.sampled_from((OF10, OF13)), st.integers(0, 255), st.binary(max_size=300))
def test_random_bodies(host: FakeHost, version: int, kind: int, body: bytes) -> None:
    check(host, HEADER.pack(version, kind, 8 + len(body), 1) + body, version)


@settings(max_examples=100)
@given(st.binary(max_size=2000))
def test_random_bytes(host: FakeHost, data: bytes) -> None:
    host.talk(data)


def test_a_stream_in_pieces_is_the_stream() -> None:
    whole = b"".join(MESSAGES)
    stream = Stream()
    found = [raw.data for at in range(0, len(whole), 7) for raw in stream.feed(whole[at : at + 7])]
    assert found == [raw.data for raw in Stream().feed(whole)]


def test_a_length_that_cannot_be_ends_the_stream() -> None:
    with pytest.raises(OpenFlowError, match="has no header"):
        Stream().feed(HEADER.pack(OF13, 0, 7, 1))
