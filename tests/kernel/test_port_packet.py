"""Packet ports on veth pairs, without the engine: what passes, and what happens when the device changes."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, OFFLOAD_USO
from penstock.memory import Arena
from penstock.ports import packet_host
from penstock.ports.base import Port, PortError
from penstock.ports.netdev import Links
from penstock.ports.packet import Packet
from penstock.ports.tap import Tap
from tests.kernel.port_support import (
    SOL_PACKET,
    Host,
    Queues,
    Shuttle,
    arrives,
    bulk_transfer,
    open_port,
    own_namespace,
    run,
    segmented_datagrams,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

ADDRESSES = bytes.fromhex("ffffffffffff 020000000099")
PLAIN = ADDRESSES + b"\x88\xb5" + bytes(range(50))
TAGGED = ADDRESSES + b"\x81\x00\x60\x0a\x88\xb5" + b"v" * 300
DOUBLE = ADDRESSES + b"\x88\xa8\x00\x14\x81\x00\x00\x0a\x88\xb5" + b"q" * 300
VETH_PAIR = ("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
ARP_IGNORE = Path("/proc/sys/net/ipv4/conf/va/arp_ignore")
DISABLE_IPV6 = Path("/proc/sys/net/ipv6/conf/va/disable_ipv6")


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = Arena.create(128 << 20)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with own_namespace():
        yield


@pytest.fixture
def host() -> Iterator[Host]:
    """A host whose eth0 is the peer of va, which is here."""
    run(*VETH_PAIR)
    made = Host()
    made.take("vb", "10.0.0.1/24")
    yield made
    made.close()


@pytest.fixture
def port(arena: Arena, host: Host) -> Iterator[Packet]:
    made = open_port(arena, Packet, "p", netdev="va", ring=60)
    assert isinstance(made, Packet)
    yield made
    made.close()


@pytest.fixture
def pair(arena: Arena) -> Iterator[tuple[Host, Host, Queues, Queues]]:
    """Two hosts, each behind a veth whose other end is a port."""
    hosts = Host(), Host()
    ports: list[Port] = []
    for number, each in enumerate(hosts, 1):
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", f"w{number}")
        each.take(f"w{number}", f"10.0.0.{number}/24")
        each.take_ipv6(f"fd00::{number}/64")
        ports.append(open_port(arena, Packet, f"p{number}", netdev=f"v{number}"))
    first, second = (Queues(arena, port) for port in ports)
    yield *hosts, first, second
    for each_port in ports:
        each_port.close()
    for each in hosts:
        each.close()


def test_hosts_talk_through_two_ports(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    with Shuttle((first, second), (second, first)) as shuttle:
        assert " 0% packet loss" in one.run("ping", "-c", "3", "-i", "0.05", "10.0.0.2")
        bulk_transfer(one, two, "10.0.0.2", 20_000_000)
        bulk_transfer(two, one, "fd00::1", 20_000_000)
    assert shuttle.largest > 60_000
    assert {GSO_TCPV4, GSO_TCPV6} <= shuttle.gso
    assert first.drops() == second.drops() == {}


def test_udp_segments_pass_uncut(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    if not first.port.offloads & OFFLOAD_USO:
        pytest.skip("this kernel has no UDP segmentation offload")
    with Shuttle((first, second), (second, first)) as shuttle:
        segmented_datagrams(one, two, "10.0.0.2", 40, 1200)
    assert GSO_UDP_L4 in shuttle.gso


def test_peer_that_cannot_segment_or_check_gets_small_whole_frames(pair: tuple[Host, Host, Queues, Queues]) -> None:
    """The kernel behind the port cuts and finishes what the port sends, when its device cannot."""
    one, two, first, second = pair
    run("ethtool", "-K", "v2", "tso", "off", "gso", "off", "tx", "off")
    two.run("ethtool", "-K", "eth0", "gro", "off")
    with Shuttle((first, second), (second, first)) as shuttle:
        bulk_transfer(one, two, "10.0.0.2", 5_000_000)
    assert shuttle.largest > 60_000
    assert second.drops() == {}


@pytest.mark.parametrize("frame", [PLAIN, TAGGED, DOUBLE], ids=["plain", "tagged", "double"])
def test_frames_arrive_as_they_were_sent(arena: Arena, port: Packet, host: Host, frame: bytes) -> None:
    queues = Queues(arena, port)
    with host.raw_socket() as raw:
        raw.send(frame)
        found = {data: packet for packet, data in queues.wait()}
        assert frame in found
        assert found[frame]["headroom"] >= 128
        assert found[frame]["gso_type"] == found[frame]["flags"] == 0
        for split, headroom in ((0, 128), (40, 128), (0, 4), (40, 0)):
            queues.send(frame, split=split, headroom=headroom)
            assert arrives(raw, frame)
    assert queues.drops() == {}


def test_checksum_position_moves_with_a_tag_that_is_put_back(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    frame = ADDRESSES + b"\x81\x00\x00\x0a\x08\x00" + bytes(60)
    header = struct.pack("=BBHHHH", 1, 0, 0, 0, 18 + 20, 6)
    with host.raw_socket() as raw:
        raw.setsockopt(SOL_PACKET, 15, 1)  # PACKET_VNET_HDR
        raw.send(header + frame)
        found = {data: packet for packet, data in queues.wait()}
    assert frame in found
    assert found[frame]["flags"] == FLAG_CSUM_PARTIAL
    assert (found[frame]["csum_start"], found[frame]["csum_offset"]) == (38, 6)


def test_slots_are_given_back_in_order(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    frames = [ADDRESSES + b"\x88\xb5" + struct.pack("!I", number) * 20 for number in range(500)]
    received: list[bytes] = []
    with host.raw_socket() as raw:
        for index, frame in enumerate(frames):
            raw.send(frame)
            if index % 29 == 0:
                count = queues.receive()
                received += [queues.frame(i) for i in range(count)]
                queues.release()
        received += [data for _packet, data in queues.wait()] + [data for _packet, data in queues.wait(0.1)]
    assert [frame for frame in received if frame[12:14] == b"\x88\xb5"] == frames


def test_a_full_ring_is_counted_and_heals(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    frame = PLAIN + bytes(100)
    with host.raw_socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        for _ in range(200):
            raw.send(frame)
        assert queues.receive() == 32
        assert queues.receive() == 28  # not released yet: nothing is overwritten, nothing is seen twice
        assert queues.receive() == 0
        assert all(queues.frame(i) == frame for i in range(28))
        assert port.driver_stats()["rx_ring_full"] >= 140
        queues.release()
        raw.send(frame)
        assert [data for _packet, data in queues.wait()] == [frame]


def test_own_frames_do_not_come_back(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    for _ in range(10):
        queues.send(PLAIN)
    local = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with local:
        local.bind(("va", 0))
        local.send(PLAIN)  # by another program of this host
    assert PLAIN not in [data for _packet, data in queues.wait(0.2)]


def test_queues_share_the_flows_and_nothing_comes_twice(arena: Arena, host: Host) -> None:
    port = open_port(arena, Packet, "p", workers=3, netdev="va", queues=2)
    queues = Queues(arena, port)
    assert (len(port.rx), len(port.tx)) == (2, 3)
    host.run("ip", "neigh", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    sending = host.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    received: list[list[bytes]] = [[], []]
    with sending:
        for number in range(64):
            sending.sendto(b"x" * 60, ("10.0.0.2", 9000 + number))
    time.sleep(0.05)
    for queue in (0, 1, 0, 1, 0, 1):
        count = queues.receive(queue)
        received[queue] += [queues.frame(i) for i in range(count)]
        queues.release(queue)
    flows = [[frame for frame in each if frame[12:14] == b"\x08\x00"] for each in received]
    assert all(flows)
    assert len(flows[0]) + len(flows[1]) == 64
    with host.raw_socket() as raw:
        for queue in range(3):
            queues.send(PLAIN + bytes([queue]), queue=queue)
            assert arrives(raw, PLAIN + bytes([queue]))
    port.close()


def test_link_down_does_not_keep_epoll_busy(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    poller = select.epoll()
    poller.register(port.rx[0].fd, select.EPOLLIN)
    run("ip", "link", "set", "va", "down")
    assert port.check() == ("down", "netdev 'va' is down: ip link set va up")
    deadline = time.monotonic() + 1
    while events := poller.poll(0.02):
        assert events[0][1] & select.EPOLLERR
        assert queues.receive() == 0
        assert time.monotonic() < deadline, "the socket's error was never taken away"
    assert queues.rxqs[0][1]["error"] == 0
    queues.send(PLAIN)
    assert queues.drops() == {"port_down": 1}
    run("ip", "link", "set", "va", "up")
    assert port.check() == ("up", "")
    with host.raw_socket() as raw:
        queues.send(PLAIN)
        assert arrives(raw, PLAIN)
        raw.send(TAGGED)
        assert TAGGED in [data for _packet, data in queues.wait()]
    poller.close()


def test_first_frame_after_a_time_down_is_sent(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    run("ip", "link", "set", "va", "down")
    run("ip", "link", "set", "va", "up")
    with host.raw_socket() as raw:
        queues.send(PLAIN)
        assert arrives(raw, PLAIN)
    assert queues.drops() == {}


def test_peer_down_is_no_carrier(port: Packet, host: Host) -> None:
    host.run("ip", "link", "set", "eth0", "down")
    state, reason = port.check()
    assert state == "down"
    assert "no carrier" in reason


def test_device_deleted_from_outside(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    run("ip", "link", "delete", "va")
    state, reason = port.check()
    assert state == "error"
    assert reason == "netdev 'va' was deleted or moved to another network namespace"
    poller = select.epoll()
    poller.register(port.rx[0].fd, select.EPOLLIN)
    deadline = time.monotonic() + 1
    while poller.poll(0.02):
        assert queues.receive() == 0
        assert time.monotonic() < deadline
    queues.transmit([_made(queues)] * 4)
    assert queues.drops() == {"port_down": 4}
    assert port.driver_stats() == {"rx_ring_full": 0}
    poller.close()


def _made(queues: Queues) -> int:
    """A PACKET ready to be sent."""
    queues.send(PLAIN)
    queues.counters["drops"] = 0
    return queues.packets_at


def test_refused_frames_do_not_hold_up_the_others(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    with host.raw_socket() as raw:
        queues.send(PLAIN, flags=FLAG_CSUM_PARTIAL, csum_start=5000, csum_offset=16)
        queues.send(PLAIN + bytes(2000))
        queues.send(PLAIN)
        assert arrives(raw, PLAIN)
    assert queues.drops() == {"tx_rejected": 1, "mtu_exceeded": 1}
    assert queues.counters["tx_packets"] == 1
    assert queues.counters["tx_bytes"] == len(PLAIN)


def test_refusal_in_the_middle_of_a_burst(arena: Arena, port: Packet, host: Host) -> None:
    queues = Queues(arena, port)
    with host.raw_socket() as raw:
        for index in range(7):
            raw.send(PLAIN + bytes([index]))
        time.sleep(0.02)
        count = queues.receive()
        ours = [i for i in range(count) if queues.frame(i)[: len(PLAIN)] == PLAIN]
        assert len(ours) == 7
        queues.packets["flags"][ours[3]], queues.packets["csum_start"][ours[3]] = FLAG_CSUM_PARTIAL, 6000
        queues.transmit([queues.packet_address(i) for i in ours])
        queues.release()
        assert [arrives(raw, PLAIN + bytes([index]), 0.2) for index in (0, 1, 2, 4, 5, 6)] == [True] * 6
    assert queues.drops() == {"tx_rejected": 1}
    assert queues.counters["tx_packets"] == 6


def test_netdev_of_a_tap_that_a_guest_has_open(arena: Arena) -> None:
    """How a guest of QEMU with a TAP of its own is attached: QEMU has the descriptor, the port has the net device."""
    guest_end = open_port(arena, Tap, "vm0")
    port = open_port(arena, Packet, "p", netdev="vm0")
    guest, switch = Queues(arena, guest_end), Queues(arena, port)
    for frame in (PLAIN, TAGGED):
        guest.send(frame)
        assert frame in [data for _packet, data in switch.wait()]
        switch.send(frame)
        assert frame in [data for _packet, data in guest.wait()]
    segment = ADDRESSES + b"\x08\x00" + _tcp_segment(20_000)
    switch.send(segment, flags=FLAG_CSUM_PARTIAL, csum_start=34, csum_offset=16, gso_type=GSO_TCPV4, gso_size=1448)
    packet, data = guest.wait()[-1]
    assert data == segment
    assert (packet["gso_type"], packet["gso_size"], packet["csum_start"]) == (GSO_TCPV4, 1448, 34)
    port.close()
    guest_end.close()


def _tcp_segment(size: int) -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, flags="A") / (b"d" * size))


def test_mtu(arena: Arena, host: Host) -> None:
    port = open_port(arena, Packet, "p", netdev="va", mtu=9000)
    assert port.mtu == 9000
    port.set_mtu(1400)
    assert "mtu 1400" in run("ip", "link", "show", "va")
    with pytest.raises(PortError, match="port 'p': netdev 'va' does not take mtu 66000"):
        port.set_mtu(66000)
    port.close()


def _answers_for(host: Host, address: str) -> int:
    """How often the host behind va answers when eth0 asks who has an address."""
    asking = "020000000099"
    header = "ffffffffffff" + asking + "08060001080006040001"
    request = bytes.fromhex(header + asking + "0a000001" + "000000000000") + socket.inet_aton(address)
    count = 0
    with host.raw_socket() as raw:
        raw.send(request)
        while select.select([raw], [], [], 0.2)[0]:
            count += raw.recv(2000)[:6] == bytes.fromhex(asking)
    return count


def test_host_stack_is_kept_out_and_put_back(arena: Arena, host: Host) -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "set", "va", "up")
    run("ip", "address", "add", "192.0.2.1/24", "dev", "lo")
    assert _answers_for(host, "192.0.2.1") == 1  # Linux answers for every address it has
    before = ARP_IGNORE.read_text(), DISABLE_IPV6.read_text()
    port = open_port(arena, Packet, "p", netdev="va")
    assert (ARP_IGNORE.read_text().strip(), DISABLE_IPV6.read_text().strip()) == ("8", "1")
    assert _answers_for(host, "192.0.2.1") == 0
    port.close()
    assert (ARP_IGNORE.read_text(), DISABLE_IPV6.read_text()) == before


def test_device_with_addresses_is_left_alone(arena: Arena, host: Host) -> None:
    run("ip", "address", "add", "10.0.0.9/24", "dev", "va")
    port = open_port(arena, Packet, "p", netdev="va")
    assert (ARP_IGNORE.read_text().strip(), DISABLE_IPV6.read_text().strip()) == ("0", "0")
    port.close()
    run("ip", "address", "flush", "dev", "va")
    run("ip", "address", "add", "fd00::9/64", "dev", "va")
    port = open_port(arena, Packet, "p", netdev="va")
    assert DISABLE_IPV6.read_text().strip() == "0"
    port.close()


def test_one_port_for_a_device(arena: Arena, port: Packet) -> None:
    with pytest.raises(PortError, match=r"port 'q': netdev 'va' is already in use by port 'p'$"):
        open_port(arena, Packet, "q", netdev="va")
    with own_namespace():
        run(*VETH_PAIR)
        open_port(arena, Packet, "q", netdev="va").close()  # another device of the same name, perhaps of the same index
    port.close()
    open_port(arena, Packet, "q", netdev="va").close()


def test_device_of_another_switch(host: Host) -> None:
    with Links() as links:
        link = links.get("va")
    assert link is not None
    program = (
        "import sys, time; from penstock.ports.packet_host import claim\n"
        f"held = claim({link.index}, 'va', 'uplink'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PortError) as caught:
            packet_host.claim(link.index, "va", "p")
        other.kill()
    assert str(caught.value) == (
        f"port 'p': netdev 'va' is already in use by port 'uplink' of another switch (process {other.pid})"
    )
    for each in packet_host.claim(link.index, "va", "p"):
        each.close()


def test_errors_leave_nothing_behind(arena: Arena, host: Host) -> None:
    with pytest.raises(PortError, match="port 'p': netdev 'eth77' does not exist in this network namespace"):
        open_port(arena, Packet, "p", netdev="eth77")
    with pytest.raises(PortError, match="netdev 'va' does not take mtu 12"):
        open_port(arena, Packet, "p", netdev="va", mtu=12)
    with pytest.raises(PortError, match="cannot name a net device"):
        open_port(arena, Packet, "p", netdev="much-too-long-for-linux")
    assert (ARP_IGNORE.read_text().strip(), DISABLE_IPV6.read_text().strip()) == ("0", "0")
    open_port(arena, Packet, "p", netdev="va").close()


def test_no_rights(host: Host) -> None:
    program = (
        "import os; from penstock.ports.packet import Packet; from penstock.ports.base import PortContext, PortError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Packet('up', Packet.Options(netdev='va'), PortContext(None)).open()\n"
        "except PortError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == (
        "port 'up': no right to open a packet socket on netdev 'va':"
        " run as root or with the capabilities CAP_NET_RAW and CAP_NET_ADMIN\n"
    ), done.stderr
