"""Tunnels in a running engine, packet by packet: what leaves, and what arriving packets become, beside a naive twin."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, GSO_TCPV4
from penstock.demo.hosts import Host
from penstock.engine.addresses import add_fdb
from penstock.engine.engine import Engine
from penstock.engine.open_port import EngineFault
from penstock.engine.warm import warm
from penstock.ports.dummy import Frame
from penstock.ports.spec import BridgeSpec, PortSpec
from tests.engine.support import add_dummy, counters, drops, mac, send, sent, wait_until
from tests.naive.packet_checksum import checksum, ones_sum
from tests.naive.packet_frames import frames
from tests.naive.tunnel import Arrived, Form, Link, Tunnel, arrive, encapsulate

pytestmark = pytest.mark.root

ARENA = 256 << 20
HERE, THERE, ELSEWHERE, SECOND = (ipaddress.ip_address(f"10.0.0.{n}") for n in (1, 2, 3, 9))
HERE6, THERE6 = (ipaddress.ip_address(f"fd00::{n}") for n in (1, 2))
FAR_MAC = mac(0xFA)
VM, PEER = mac(1), mac(2)
slow = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Site:
    """An engine with an underlay (dummy nic, internal host0) and an overlay (dummy vm), and a far end's neighbour."""

    def __init__(self) -> None:
        self.host = Host("tunnels")
        self.engine = Engine(workers=1, arena_bytes=ARENA)
        self.engine.add_bridge(BridgeSpec("under"))
        self.engine.add_bridge(BridgeSpec("over"))
        add_dummy(self.engine, "nic", bridge="under")
        self.add("under", "host0", "internal")
        self.host.assign("host0", "10.0.0.1/24", "10.0.0.9/24", "fd00::1/64")
        for address in ("10.0.0.2", "10.0.0.3", "fd00::2"):
            self.neighbour(address, FAR_MAC)
        add_dummy(self.engine, "vm", bridge="over")
        self.mac = bytes.fromhex(self.host.mac("host0").replace(":", ""))

    def close(self) -> None:
        self.engine.stop()
        self.host.close()

    def neighbour(self, address: str, link: bytes, change: str = "replace") -> None:
        text = ":".join(f"{octet:02x}" for octet in link)
        self.host.netlink.neigh(change, dst=address, lladdr=text, ifindex=self.host.index("host0"), state="permanent")

    def add(self, bridge: str, name: str, kind: str, **options: Any) -> None:
        """Add a port as the engine does in its namespace, options left out as their defaults."""
        with self.host.entered():
            self.engine.add_port(PortSpec(bridge, name, kind, options))

    def turn(self) -> None:
        """Have the engine's main thread do what waits."""
        for _ in range(3):
            self.engine.loop.turn(0.005)

    def link(self, source: Any = HERE, destination: Any = THERE) -> Link:
        """From this host to a far end."""
        return Link(self.mac, FAR_MAC, source, destination)

    def back(self, source: Any = THERE, destination: Any = HERE) -> Link:
        """From a far end to this host."""
        return Link(FAR_MAC, self.mac, source, destination)

    def encapsulated(self) -> list[bytes]:
        """What left by the NIC since the last call, but for what the kernel sent of itself."""
        return [each for each in sent(self.engine, "nic") if each[:6] == FAR_MAC]

    def through(self, *inner: Frame | bytes) -> list[bytes]:
        """Send frames from the VM; what leaves by the NIC."""
        self.encapsulated()
        send(self.engine, "vm", inner)
        return self.encapsulated()

    def arrive(self, *outer: Frame | bytes) -> list[bytes]:
        """Send frames to the NIC; what comes to the VM."""
        sent(self.engine, "vm")
        send(self.engine, "nic", outer)
        return sent(self.engine, "vm")

    def dropped(self, name: str) -> dict[str, int]:
        return drops(self.engine, name)


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    warm(lambda done, total, name: None)
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    for name in list(shared.engine.ports):
        if name not in ("nic", "host0", "vm"):
            shared.engine.remove_port(name)
    assert not shared.engine.underlay.tunnels()


def plain(size: int = 100, source: bytes = VM, destination: bytes = PEER) -> bytes:
    return destination + source + b"\x08\x00" + udp4(size - 14)


def udp4(size: int, tos: int = 0) -> bytes:
    """A UDP packet of IPv4 without a checksum."""
    head = (
        b"\x45"
        + bytes([tos])
        + size.to_bytes(2, "big")
        + b"\0\0\x40\0\x40\x11\0\0"
        + bytes([192, 168, 0, 1, 192, 168, 0, 2])
    )
    return (
        head + (1000).to_bytes(2, "big") + (2000).to_bytes(2, "big") + (size - 20).to_bytes(2, "big") + bytes(size - 26)
    )


def source_port(outer: bytes, l4: int = 34) -> int:
    return int.from_bytes(outer[l4 : l4 + 2], "big")


FORMS = {
    "vxlan": ({"key": 5001}, Form(key=5001)),
    "vxlan, no key": ({}, Form(key=0)),
    "vxlan, own port, tos, ttl": (
        {"key": 7, "dst_port": 8472, "tos": 0x28, "ttl": 9},
        Form(port=8472, key=7, tos=0x28, ttl=9),
    ),
    "vxlan, checksum": ({"key": 0xFFFFFF, "csum": True}, Form(key=0xFFFFFF, checksum=True)),
    "vxlan, may be fragmented": ({"df_default": False}, Form(dont_fragment=False)),
    "vxlan, gpe": ({"key": 9, "exts": ["gpe"]}, Form(key=9, gpe=True)),
    "geneve": ({"key": 5002}, Form("geneve", 6081, 5002)),
    "geneve, checksum": ({"key": 5002, "csum": True}, Form("geneve", 6081, 5002, checksum=True)),
    "gre": ({}, Form("gre", 0, None)),
    "gre, key": ({"key": 0xDEADBEEF}, Form("gre", 0, 0xDEADBEEF)),
    "gre, key and checksum": ({"key": 1, "csum": True}, Form("gre", 0, 1, checksum=True)),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", list(FORMS))
def test_headers_are_those_of_the_standards(site: Site, name: str, version: int) -> None:
    options, form = FORMS[name]
    remote, local = (THERE, HERE) if version == 4 else (THERE6, HERE6)
    site.add("over", "tun", form.kind, remote_ip=str(remote), **options)
    l4 = 34 if version == 4 else 54
    link = site.link(local, remote)

    @slow
    @given(frames())
    def check(inner: bytes) -> None:
        inner = PEER + VM + inner[12:].ljust(2, b"\0")
        if inner[12:14] in (b"\x81\x00", b"\x88\xa8", b"\x91\x00"):
            # NORMAL drops a tag that is cut off and takes off one of VLAN 0.
            inner = inner[:14] + b"\x20\x07" + inner[16:].ljust(2, b"\0")
        (outer,) = site.through(inner)
        # The congestion bits have a test of their own.
        tos, expected = form.tos | ((outer[15] if version == 4 else outer[15] >> 4) & 3), form
        if form.kind != "gre":
            expected = replace(form, source_port=source_port(outer, l4))
            assert expected.source_port >= 49152
        assert outer == encapsulate(inner, link, replace(expected, tos=tos))
        assert site.arrive(encapsulate(inner[6:12] + inner[:6] + inner[12:], site.back(remote, local), form))

    check()


@pytest.mark.parametrize("inner_ecn", range(4))
@pytest.mark.parametrize("version", [4, 6])
def test_congestion_bits_are_carried_both_ways(site: Site, inner_ecn: int, version: int) -> None:
    remote, local = (THERE, HERE) if version == 4 else (THERE6, HERE6)
    site.add("over", "tun", "vxlan", remote_ip=str(remote), tos=0x20)
    inner = PEER + VM + b"\x08\x00" + udp4(80, 0x40 | inner_ecn)
    (outer,) = site.through(inner)
    tos = outer[15] if version == 4 else int.from_bytes(outer[14:16], "big") >> 4 & 0xFF
    assert tos == 0x20 | (2 if inner_ecn == 3 else inner_ecn)
    back = VM + PEER + inner[12:]
    congested = Form(key=0, tos=3)
    found = site.arrive(encapsulate(back, site.back(remote, local), congested))
    if inner_ecn == 0:
        assert found == []
        assert site.dropped("tun")["tunnel_congested"] == 1
    else:
        assert found[0][15] == 0x43


def test_tos_and_ttl_are_inherited(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2", tos="inherit", ttl="inherit")
    inner = bytearray(PEER + VM + b"\x08\x00" + udp4(80, 0xB8))
    inner[22] = 17
    (outer,) = site.through(bytes(inner))
    assert outer == encapsulate(bytes(inner), site.link(), Form(tos=0xB8, ttl=17, source_port=source_port(outer)))
    (outer,) = site.through(PEER + VM + b"\x88\xb5" + bytes(50))
    assert (outer[15], outer[22]) == (0, 64)


def test_the_source_port_tells_flows_apart(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2")
    inner = bytearray(plain())
    ports = set()
    for number in range(64):
        inner[35] = number
        first, second = site.through(bytes(inner), bytes(inner))
        assert first == second
        ports.add(source_port(first))
    assert len(ports) > 48


@pytest.mark.parametrize("version", [4, 6])
def test_a_tenant_cannot_send_as_a_tunnel(site: Site, version: int) -> None:
    """What is for the host's address, and reaches a device that does not have it, is unpacked nowhere."""
    remote, local = (THERE, HERE) if version == 4 else (THERE6, HERE6)
    site.add("over", "tun", "vxlan", remote_ip=str(remote), key=7)
    site.add("over", "tenants", "internal")
    add_dummy(site.engine, "other", bridge="over")
    forged = encapsulate(plain(destination=b"\xff" * 6), site.back(remote, local), Form(key=7))
    send(site.engine, "vm", [b"\xff" * 6 + VM + forged[12:]])
    received = [each for each in sent(site.engine, "other") if each[6:12] == VM]  # its kernel speaks for itself
    assert [each[12:] for each in received] == [forged[12:]]
    assert counters(site.engine, "tun")["rx_packets"] == 0
    assert site.arrive(forged)
    assert counters(site.engine, "tun")["rx_packets"] == 1


TUNNELS = (
    (Tunnel("exact", "vxlan", 4789, 10, THERE), {"key": 10, "remote_ip": "10.0.0.2"}),
    (Tunnel("local", "vxlan", 4789, 10, THERE, HERE), {"key": 10, "remote_ip": "10.0.0.2", "local_ip": "10.0.0.1"}),
    (Tunnel("key", "vxlan", 4789, 10), {"key": 10, "remote_ip": "flow"}),
    (Tunnel("remote", "vxlan", 4789, None, THERE), {"key": "flow", "remote_ip": "10.0.0.2"}),
    (Tunnel("six", "vxlan", 4789, 11, THERE6), {"key": 11, "remote_ip": "fd00::2"}),
    (Tunnel("grouped", "vxlan", 4790, 10, group_policy=True),
     {"key": 10, "remote_ip": "flow", "dst_port": 4790, "exts": ["gbp"]}),
    (Tunnel("geneve", "geneve", 6081, None), {"key": "flow", "remote_ip": "flow"}),
    (Tunnel("gre", "gre", 0, 0, THERE), {"remote_ip": "10.0.0.2"}),
    (Tunnel("gre-any", "gre", 0, None, None), {"remote_ip": "flow", "key": "flow"}),
)  # fmt: skip


@st.composite
def tlvs(draw: st.DrawFn) -> bytes:
    """Options of Geneve, few of them critical or with a length that is wrong."""
    made = b""
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(0, 3))
        told = draw(st.sampled_from((size, size, size, size, 31)))
        made += bytes([1, 2, draw(st.sampled_from((0, 1, 2, 0x80))), told]) + draw(
            st.binary(min_size=4 * size, max_size=4 * size)
        )
    return made


@st.composite
def arrivals(draw: st.DrawFn, back4: Link, back6: Link) -> bytes:
    """Outer packets, most of them right, some damaged."""
    tunnel = draw(st.sampled_from(TUNNELS))[0]
    kind = tunnel.kind
    key = draw(st.sampled_from((tunnel.key, tunnel.key, tunnel.key, 0, 10, 11, 0xFFFFFF)))
    link = back6 if tunnel.remote == THERE6 else back4
    link = draw(
        st.sampled_from((link, link, link, replace(back4, source=ELSEWHERE), replace(back4, destination=SECOND), back6))
    )
    if draw(st.integers(0, 9)) == 9:
        link = replace(back4, destination=ELSEWHERE)
    form = Form(
        kind,
        draw(st.sampled_from((tunnel.port, tunnel.port, tunnel.port, 4790 if kind != "gre" else 0))),
        0 if key is None and kind != "gre" else key,
        tos=draw(st.sampled_from((0, 0, 3, 0x21))),
        checksum=draw(st.booleans()),
        gpe=kind == "vxlan" and draw(st.integers(0, 3)) == 3,
        oam=draw(st.booleans()),
        options=draw(tlvs()) if kind == "geneve" else b"",
        sequence=draw(st.sampled_from((None, 7))),
        source_port=draw(st.integers(0, 65535)),
    )
    if kind == "vxlan" and not form.gpe and draw(st.booleans()):
        form = replace(form, group=draw(st.integers(0, 65535)), group_flags=draw(st.sampled_from((0, 8, 0x48))))
    outer = bytearray(encapsulate(draw(frames()), link, form))
    for _ in range(draw(st.sampled_from((0, 0, 1, 3)))):
        # Behind the addresses, so that it still comes to this host; the IP header's checksum is the network's matter.
        at = draw(st.sampled_from((14, 15, 16, 17, 20, 21, 23, *range(34, min(len(outer), 70)))))
        outer[at] ^= 1 << draw(st.integers(0, 7))
    cut = draw(st.sampled_from((None, None, None, 20, 40, 45, 52, 70)))
    return bytes(outer[:cut] if cut else outer) + bytes(draw(st.sampled_from((0, 0, 6))))


def test_arriving_packets_are_told_as_the_twin_does(site: Site) -> None:
    for tunnel, options in TUNNELS:
        site.add("over", tunnel.name, tunnel.kind, **options)
    names = [tunnel.name for tunnel, _ in TUNNELS]
    tunnels = [tunnel for tunnel, _ in TUNNELS]
    seen = set()

    def compare(outer: bytes) -> None:
        expected = arrive(outer, tunnels, {HERE, SECOND, HERE6})
        before = {name: counters(site.engine, name) for name in (*names, "host0")}
        lost = {name: site.dropped(name) for name in (*names, "host0")}
        site.arrive(outer)
        received = [name for name in names if counters(site.engine, name)["rx_packets"] > before[name]["rx_packets"]]
        reasons = [
            reason
            for name in (*names, "host0")
            for reason, count in site.dropped(name).items()
            if reason.startswith("tunnel") and count > lost[name].get(reason, 0)
        ]
        octets = sum(counters(site.engine, name)["rx_bytes"] - before[name]["rx_bytes"] for name in received)
        what = received[0] if received else reasons[0] if reasons else "host"
        assert Arrived(what, bytes(octets)) == Arrived(expected.what, bytes(len(expected.inner)))
        assert len(received) + len(reasons) <= 1
        seen.add(what)

    for tunnel in tunnels:
        local = HERE6 if tunnel.remote == THERE6 else SECOND if tunnel.name == "exact" else HERE
        source = ELSEWHERE if tunnel.name in ("key", "gre-any") else tunnel.remote or THERE
        key = 99 if tunnel.key is None else tunnel.key
        form = Form(tunnel.kind, tunnel.port, key, group=int(tunnel.group_policy))
        compare(encapsulate(plain(), site.back(source, local), form))
    settings(slow, max_examples=1000)(given(arrivals(site.back(), site.back(THERE6, HERE6)))(compare))()
    assert seen >= {*names, "host", "tunnel_header", "tunnel_unknown", "tunnel_checksum", "tunnel_congested"}


def test_large_segments_are_cut_before_they_are_encapsulated(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2", key=1)
    payload = bytes(index & 255 for index in range(60_000))
    ip = (
        b"\x45\0"
        + (40 + len(payload)).to_bytes(2, "big")
        + b"\0\x07\x40\0\x40\x06\0\0"
        + bytes([10, 1, 0, 1, 10, 1, 0, 2])
    )
    tcp = b"\x10\0\x20\0" + (1000).to_bytes(4, "big") + bytes(4) + b"\x50\x18\x10\0" + bytes(4)
    large = Frame(PEER + VM + b"\x08\x00" + ip + tcp + payload, 34, 16, 1396, GSO_TCPV4, FLAG_CSUM_PARTIAL)
    pieces = site.through(large, *[large] * 30)
    assert len(pieces) == 31 * 43
    joined = b""
    for number, outer in enumerate(pieces[:43]):
        inner = outer[50:]
        assert outer == encapsulate(inner, site.link(), Form(key=1, source_port=source_port(pieces[0])))
        assert int.from_bytes(inner[38:42], "big") == 1000 + 1396 * number
        joined += inner[54:]
    assert joined == payload
    small = Frame(large.data, 34, 16, 1500, GSO_TCPV4, FLAG_CSUM_PARTIAL)
    assert site.through(small) == []
    assert site.dropped("tun") == {"mtu_exceeded": 1}


@pytest.fixture
def routed(site: Site) -> Iterator[Site]:
    """With far ends in 10.20.0.0/16, all behind one next hop."""
    site.host.netlink.route("add", dst="10.20.0.0/16", gateway="10.0.0.2")
    yield site
    site.host.netlink.route("del", dst="10.20.0.0/16", gateway="10.0.0.2")


def many(count: int) -> list[str]:
    return [str(ipaddress.ip_address("10.20.0.1") + number) for number in range(count)]


def destinations(outer: list[bytes]) -> list[str]:
    return [str(ipaddress.ip_address(each[30:34])) for each in outer]


def test_a_flood_may_need_more_copies_than_there_are_buffers(routed: Site) -> None:
    """2,500 far ends and 1,024 buffers for copies: what is flooded goes to all of them, in turn."""
    site = routed
    ends = many(2500)
    site.add("over", "tun", "vxlan", vnis=["0=77"], remotes=ends)
    broadcast = b"\xff" * 6
    found = site.through(plain(destination=broadcast), plain(120, destination=broadcast))
    assert sorted(destinations(found)) == sorted(ends * 2)
    assert all(int.from_bytes(each[46:49], "big") == 77 for each in found)
    assert {len(each) for each in found} == {150, 170}
    assert site.dropped("tun") == {}


def test_large_segments_are_flooded_too(routed: Site) -> None:
    site = routed
    ends = many(60)
    site.add("over", "tun", "vxlan", vnis=["0=77"], remotes=ends)
    ip = b"\x45\0" + (20_040).to_bytes(2, "big") + b"\0\x07\x40\0\x40\x06\0\0" + bytes([10, 1, 0, 1, 10, 1, 0, 2])
    tcp = bytes(12) + b"\x50\x18\x10\0" + bytes(4)
    large = Frame(b"\xff" * 6 + VM + b"\x08\x00" + ip + tcp + bytes(20_000), 34, 16, 1000, GSO_TCPV4, FLAG_CSUM_PARTIAL)
    found = site.through(large, large)
    assert sorted(destinations(found)) == sorted(ends * 40)
    assert site.dropped("tun") == {}


def test_networks_by_vlan_learn_far_ends(site: Site) -> None:
    """VNIs of a list: flooded to the far ends of each, then sent where the address was learned; new ones are found."""
    site.add("over", "tun", "vxlan", vnis=["10-12=5010", "0=4"], remotes=["5010@10.0.0.2", "5011@10.0.0.3", "10.0.0.2"])
    tag = b"\x81\x00\x00\x0b"
    inner = PEER + VM + tag + plain()[12:]
    found = site.through(inner)
    assert destinations(found) == ["10.0.0.2", "10.0.0.3"]
    assert {each[46:49] for each in found} == {(5011).to_bytes(3, "big")}
    assert {each[50:] for each in found} == {PEER + VM + plain()[12:]}
    back = VM + PEER + plain()[12:]
    (came,) = site.arrive(encapsulate(back, site.back(ELSEWHERE), Form(key=5011)))
    assert came == VM + PEER + tag + plain()[12:]
    assert destinations(site.through(inner)) == ["10.0.0.3"]
    # The same address elsewhere, in another VLAN: both are kept apart.
    assert destinations(site.through(PEER + VM + b"\x81\x00\x00\x0a" + plain()[12:])) == ["10.0.0.2"]
    # It moves to a far end that nobody told of.
    moved = ipaddress.ip_address("10.0.0.2")
    site.arrive(encapsulate(back, site.back(moved), Form(key=5011)))
    assert destinations(site.through(inner)) == ["10.0.0.2"]
    assert site.through(PEER + VM + b"\x81\x00\x00\x0d" + plain()[12:]) == []
    assert site.arrive(encapsulate(back, site.back(), Form(key=5013))) == []
    assert site.dropped("host0")["tunnel_unknown"] >= 1


def test_addresses_behind_far_ends_may_be_told(site: Site) -> None:
    site.add("over", "tun", "vxlan", vnis=["10=5010"], remotes=["10.0.0.2"])
    add_fdb(site.engine, "over", "tun", 10, "02:00:00:00:00:02", "10.0.0.3")
    inner = PEER + VM + b"\x81\x00\x00\x0a" + plain()[12:]
    assert destinations(site.through(inner)) == ["10.0.0.3"]
    site.arrive(encapsulate(VM + PEER + plain()[12:], site.back(), Form(key=5010)))
    assert destinations(site.through(inner)) == ["10.0.0.3"]
    with pytest.raises(EngineFault, match=r"'10\.0\.0\.300' is not an IP address"):
        add_fdb(site.engine, "over", "tun", 10, "02:00:00:00:00:03", "10.0.0.300")
    with pytest.raises(EngineFault, match="only a tunnel port with 'vnis'"):
        add_fdb(site.engine, "over", "vm", 10, "02:00:00:00:00:03", "10.0.0.3")


def test_a_far_end_that_nobody_told_of_is_learned(routed: Site) -> None:
    site = routed
    site.add("over", "tun", "vxlan", vnis=["0=4"], remotes=["10.0.0.2"])
    outer = encapsulate(VM + PEER + plain()[12:], site.back(ipaddress.ip_address("10.20.0.9")), Form(key=4))
    site.arrive(outer)
    site.turn()
    site.arrive(outer)
    assert destinations(site.through(plain())) == ["10.20.0.9"]


def test_partial_checksums_are_finished_before(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2")
    inner = bytearray(plain(300))
    inner[40:42] = ones_sum(bytes(inner[26:34]) + b"\0\x11" + (300 - 34).to_bytes(2, "big")).to_bytes(2, "big")
    (outer,) = site.through(Frame(bytes(inner), 34, 6, flags=FLAG_CSUM_PARTIAL))
    udp = outer[50 + 34 :]
    assert checksum(outer[50 + 26 : 50 + 34] + b"\0\x11" + len(udp).to_bytes(2, "big") + udp) == 0


def test_the_kernels_large_packets_are_unpacked_whole(site: Site) -> None:
    """What the kernel hands over uncut, with the offloads of the packet inside."""
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2", key=3)
    ip = b"\x45\0" + (20_040).to_bytes(2, "big") + b"\0\x07\x40\0\x40\x06\0\0" + bytes([10, 1, 0, 1, 10, 1, 0, 2])
    large = VM + PEER + b"\x08\x00" + ip + bytes(12) + b"\x50\x18\x10\0" + bytes(4) + bytes(20_000)
    outer = Frame(encapsulate(large, site.back(), Form(key=3)), 84, 16, 1000, GSO_TCPV4, FLAG_CSUM_PARTIAL)
    found = site.arrive(outer)
    assert [len(each) for each in found] == [1054] * 20
    assert counters(site.engine, "tun")["rx_packets"] == 1


def test_what_is_too_long_is_dropped_and_counted(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2")
    assert len(site.through(plain(1464), plain(1465))) == 1
    assert site.dropped("tun") == {"mtu_exceeded": 1}


def test_a_new_next_hop_takes_over_at_once(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2")
    assert site.through(plain())[0][:6] == FAR_MAC
    site.neighbour("10.0.0.2", mac(0xFB))
    site.turn()
    sent(site.engine, "nic")
    send(site.engine, "vm", [plain()])
    assert [each[:6] for each in sent(site.engine, "nic") if each[12:14] == b"\x08\x00"] == [mac(0xFB)]
    site.neighbour("10.0.0.2", FAR_MAC)
    site.turn()


def test_packets_wait_for_their_next_hop_within_a_bound(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.77")
    site.turn()
    sent(site.engine, "nic")
    send(site.engine, "vm", [plain(100 + number) for number in range(100)])
    site.turn()
    assert not site.encapsulated()
    assert site.dropped("tun")["tunnel_unresolved"] == 36
    asked = [each for each in sent(site.engine, "nic") if each[12:14] == b"\x08\x06"]
    site.neighbour("10.0.0.77", FAR_MAC)
    wait_until(lambda: site.turn() or counters(site.engine, "nic")["tx_packets"] >= 64, "the packets to leave")
    time.sleep(0.05)
    found = site.encapsulated()
    assert [len(each) for each in found if each[12:14] == b"\x08\x00"] == [150 + number for number in range(64)]
    assert asked is not None


def test_ports_for_the_same_packets_are_refused(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2", key=1)
    with pytest.raises(EngineFault, match="'tun' is for the same packets already"):
        site.add("over", "twin", "vxlan", remote_ip="10.0.0.2", key=1)
    with pytest.raises(EngineFault, match="not of one family"):
        site.add("over", "mixed", "vxlan", remote_ip="10.0.0.2", local_ip="fd00::1")
    site.add("over", "other", "vxlan", remote_ip="10.0.0.2", key=2)
    with pytest.raises(EngineFault, match="UDP port 4789 has tunnels of another type already, port 'tun'"):
        site.add("over", "odd", "geneve", remote_ip="10.0.0.3", dst_port=4789)


def test_a_worker_asks_within_a_bound(site: Site) -> None:
    """Packets that are too long, each of which could be told to its sender, are told of 128 times in a second."""
    site.add("over", "tun", "vxlan", remote_ip="10.0.0.2")
    told: list[bytes] = []
    time.sleep(1.2)  # into a second in which nothing was told of yet
    take = site.engine.underlay._exchange._take
    site.engine.underlay._exchange._take = told.append
    try:
        begun = int(time.monotonic())
        for _ in range(20):
            send(site.engine, "vm", [plain(1490)] * 30)
            site.turn()
        seconds = int(time.monotonic()) - begun + 1
    finally:
        site.engine.underlay._exchange._take = take
    assert site.dropped("tun") == {"mtu_exceeded": 600}
    assert 128 <= len(told) <= min(600, 128 * seconds)


def test_a_far_end_without_a_route_says_so(site: Site) -> None:
    site.add("over", "tun", "vxlan", remote_ip="172.16.0.1")
    state = next(each for each in site.engine.port_states() if each.spec.name == "tun")
    assert state.state == "down"
    assert "no route to 172.16.0.1" in state.error
    assert site.through(plain()) == []
    site.turn()
    wait_until(lambda: site.turn() or site.dropped("tun") == {"tunnel_unresolved": 1}, "the drop to be counted")
    site.host.netlink.route("add", dst="172.16.0.0/16", gateway="10.0.0.2")
    site.turn()
    (outer,) = site.through(plain())
    assert outer[:6] == FAR_MAC
    site.host.netlink.route("del", dst="172.16.0.0/16", gateway="10.0.0.2")
    site.turn()


def test_a_mark_chooses_the_route(site: Site) -> None:
    """A far end that only packets with a mark reach, by the host's policy routing."""
    far = ipaddress.ip_address("172.16.0.9")
    site.host.run("ip", "rule", "add", "fwmark", "7", "table", "107")
    site.host.run("ip", "route", "add", "172.16.0.0/16", "via", "10.0.0.2", "table", "107")
    try:
        site.add("over", "tun", "gre", remote_ip=str(far), egress_pkt_mark=7)
        site.add("over", "unmarked", "vxlan", remote_ip=str(far))
        states = {each.spec.name: each for each in site.engine.port_states()}
        assert (states["tun"].state, states["unmarked"].state) == ("up", "down")
        add_fdb(site.engine, "over", "tun", 0, "02:00:00:00:00:02")
        (outer,) = site.through(plain())
        assert outer == encapsulate(plain(), site.link(destination=far), Form("gre", key=None))
    finally:
        site.host.run("ip", "rule", "del", "fwmark", "7", "table", "107")


def test_packets_of_one_far_end_go_to_the_tunnel_of_their_key(site: Site) -> None:
    """In one burst, in any order: what was found for the packet before holds for the same key alone."""
    for key in (1, 2):
        site.add("over", f"key{key}", "vxlan", remote_ip="10.0.0.2", key=key)
    keys = [1, 2, 2, 1, 3, 1, 2]
    site.arrive(*(encapsulate(plain(), site.back(), Form(key=key)) for key in keys))
    found = {key: counters(site.engine, f"key{key}")["rx_packets"] for key in (1, 2)}
    assert found == {1: 3, 2: 3}


def test_a_tunnel_in_a_tunnel_inherits_from_it(site: Site) -> None:
    """What the outermost header inherits is that of the packet it carries, not of the one inside that."""
    site.engine.add_bridge(BridgeSpec("middle"))
    site.add("middle", "inside", "internal")
    site.host.assign("inside", "10.9.0.1/24")
    site.host.netlink.neigh(
        "add", dst="10.9.0.2", lladdr="02:00:00:00:00:fc", ifindex=site.host.index("inside"), state="permanent"
    )
    site.add("over", "first", "vxlan", remote_ip="10.9.0.2", ttl=33, tos=0x20)
    site.add("middle", "second", "vxlan", remote_ip="10.0.0.2", ttl="inherit", tos="inherit", key=9)
    site.turn()
    (outer,) = site.through(plain())
    assert (outer[15], outer[22]) == (0x20, 33)
    middle = outer[50:]
    assert outer == encapsulate(middle, site.link(), Form(key=9, ttl=33, tos=0x20, source_port=source_port(outer)))
    assert middle[50:] == plain()
    for name in ("first", "second", "inside"):
        site.engine.remove_port(name)
    site.engine.remove_bridge("middle")


def test_tunnels_within_tunnels_end(site: Site) -> None:
    """The overlay's tunnel leads to an address that is reached through itself: a loop, which headroom ends."""
    site.add("over", "tun", "vxlan", remote_ip="10.9.0.2")
    site.add("over", "inside", "internal")
    site.host.assign("inside", "10.9.0.1/24")
    site.host.netlink.neigh(
        "add", dst="10.9.0.2", lladdr="02:00:00:00:00:fc", ifindex=site.host.index("inside"), state="permanent"
    )
    site.turn()
    assert site.through(plain()) == []
    lost = site.dropped("tun")
    assert lost.get("headers_too_long", 0) + lost.get("same_port", 0) >= 1
