"""TAP ports on the kernel's own devices, without the engine: what passes, and what happens when the device changes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, OFFLOAD_USO
from penstock.memory import Arena
from penstock.ports.base import PortError
from penstock.ports.internal import Internal
from penstock.ports.netdev import Links
from penstock.ports.tap import Tap
from tests.kernel.port_support import (
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

ETHERNET = bytes.fromhex("ffffffffffff 020000000099 88b5")  # broadcast, for local experiments


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
    made = Host()
    yield made
    made.close()


@pytest.fixture
def tap(arena: Arena) -> Iterator[Tap]:
    port = open_port(arena, Tap, "tap0")
    assert isinstance(port, Tap)
    yield port
    port.close()


@pytest.fixture
def pair(arena: Arena) -> Iterator[tuple[Host, Host, Queues, Queues]]:
    """Two hosts, each behind a TAP."""
    hosts = Host(), Host()
    ports = [open_port(arena, Tap, name) for name in ("tapa", "tapb")]
    for number, each in enumerate(hosts, 1):
        each.take(ports[number - 1].netdev, f"10.0.0.{number}/24")
        each.take_ipv6(f"fd00::{number}/64")
    first, second = (Queues(arena, port) for port in ports)
    yield *hosts, first, second
    for port in ports:
        port.close()
    for each in hosts:
        each.close()


def test_hosts_talk_through_two_taps(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    with Shuttle((first, second), (second, first)) as shuttle:
        assert " 0% packet loss" in one.run("ping", "-c", "3", "-i", "0.05", "10.0.0.2")
        bulk_transfer(one, two, "10.0.0.2", 20_000_000)
        bulk_transfer(two, one, "fd00::1", 20_000_000)
    assert shuttle.largest > 60_000
    assert {GSO_TCPV4, GSO_TCPV6} <= shuttle.gso
    assert first.drops() == second.drops() == {}
    assert first.counters["tx_packets"] > 0


def test_udp_segments_pass_uncut(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    if not first.port.offloads & OFFLOAD_USO:
        pytest.skip("this kernel has no UDP segmentation offload")
    with Shuttle((first, second), (second, first)) as shuttle:
        segmented_datagrams(one, two, "10.0.0.2", 40, 1200)
    assert GSO_UDP_L4 in shuttle.gso


def test_frames_arrive_as_they_were_sent(arena: Arena, tap: Tap, host: Host) -> None:
    host.take("tap0", "10.0.0.1/24")
    queues = Queues(arena, tap)
    with host.raw_socket() as raw:
        for frame in (ETHERNET + bytes(range(46)), ETHERNET[:12] + b"\x81\x00\x00\x0a\x88\xb5" + b"v" * 300):
            raw.send(frame)
            found = [data for _packet, data in queues.wait()]
            assert frame in found
            for split, headroom in ((0, 128), (40, 128), (0, 4), (40, 0)):
                queues.send(frame, split=split, headroom=headroom)
                assert arrives(raw, frame)
        raw.send(frame)
        packet, _data = queues.wait()[-1]
    assert packet["headroom"] >= 128
    assert packet["gso_type"] == 0


def test_unfinished_checksums_are_told_both_ways(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    one.run("ip", "neigh", "add", "10.0.0.2", "lladdr", second.port.mac, "dev", "eth0")
    sending = one.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiving = two.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sending, receiving:
        receiving.bind(("10.0.0.2", 7000))
        receiving.settimeout(2)
        sending.sendto(b"hello" * 20, ("10.0.0.2", 7000))
        packet, data = next(each for each in first.wait() if each[1][12:14] == b"\x08\x00")
        assert packet["flags"] == FLAG_CSUM_PARTIAL
        assert (packet["csum_start"], packet["csum_offset"]) == (34, 6)
        fields = {name: int(packet[name]) for name in ("flags", "csum_start", "csum_offset")}
        second.send(data, **fields)
        assert receiving.recv(1000) == b"hello" * 20


def test_a_wrong_checksum_is_not_taken_for_an_unfinished_one(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    one.run("ip", "neigh", "add", "10.0.0.2", "lladdr", second.port.mac, "dev", "eth0")
    sending = one.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiving = two.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sending, receiving:
        receiving.bind(("10.0.0.2", 7000))
        receiving.settimeout(0.3)
        sending.sendto(b"hello" * 20, ("10.0.0.2", 7000))
        _packet, data = next(each for each in first.wait() if each[1][12:14] == b"\x08\x00")
        second.send(data[:40] + b"\xab\xcd" + data[42:])
        with pytest.raises(TimeoutError):
            receiving.recv(1000)


def test_queues_share_the_flows(arena: Arena, host: Host) -> None:
    tap = open_port(arena, Tap, "multi", workers=3, queues=2)
    host.take("multi", "10.0.0.1/24")
    queues = Queues(arena, tap)
    assert len(tap.rx) == 2
    assert len(tap.tx) == 3
    sending = host.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    host.run("ip", "neigh", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    with sending, host.raw_socket() as raw:
        for port in range(9000, 9064):
            sending.sendto(b"x", ("10.0.0.2", port))
        time.sleep(0.05)
        received = [queues.receive(0), queues.receive(1), queues.receive(0), queues.receive(1)]
        assert received[0] + received[2] > 0
        assert received[1] + received[3] > 0
        for queue in range(3):
            queues.send(ETHERNET + bytes([queue]) * 60, queue=queue)
            assert arrives(raw, ETHERNET + bytes([queue]) * 60)
    tap.close()


def test_a_burst_is_bounded_by_the_cache(pair: tuple[Host, Host, Queues, Queues]) -> None:
    one, two, first, second = pair
    with Shuttle((first, second), (second, first)) as shuttle:
        bulk_transfer(one, two, "10.0.0.2", 5_000_000)
    assert max(shuttle.bursts) <= 32


def test_device_deleted_from_outside(arena: Arena, tap: Tap) -> None:
    queues = Queues(arena, tap)
    assert tap.check() == ("up", "")
    run("ip", "link", "delete", "tap0")
    assert queues.receive() == 0
    assert queues.rxqs[0][1]["error"] == 77  # EBADFD: the worker takes the queue off its epoll
    assert tap.check() == ("error", "TAP device 'tap0' was deleted: remove the port and add it again")
    queues.send(ETHERNET + bytes(50))
    assert queues.drops() == {"port_down": 1}
    assert tap.driver_stats() == {}
    with pytest.raises(PortError, match="'tap0' was deleted"):
        tap.set_mtu(1400)


def test_device_down_and_up_again(arena: Arena, tap: Tap, host: Host) -> None:
    host.take("tap0", "10.0.0.1/24")
    queues = Queues(arena, tap)
    host.run("ip", "link", "set", "eth0", "down")
    assert tap.check() == ("down", "TAP device 'eth0' is down: ip link set eth0 up")
    frame = ETHERNET + bytes(50)
    queues.packets["head_len"] = 64
    queues.send(frame)
    queues.transmit([queues.packets_at] * 5)  # the rest of a burst goes the same way
    assert queues.drops() == {"port_down": 6}
    while queues.receive():
        pass  # what the host had sent before
    assert queues.rxqs[0][1]["error"] == 0
    host.run("ip", "link", "set", "eth0", "up")
    assert tap.check() == ("up", "")
    with host.raw_socket() as raw:
        queues.send(frame)
        assert arrives(raw, frame)


def test_kernel_refuses_an_offload_header_that_lies(arena: Arena, tap: Tap) -> None:
    queues = Queues(arena, tap)
    queues.send(ETHERNET + bytes(50), flags=FLAG_CSUM_PARTIAL, csum_start=5000, csum_offset=16)
    assert queues.drops() == {"tx_rejected": 1}


def test_mtu_and_mac(arena: Arena) -> None:
    tap = open_port(arena, Tap, "tap0", mtu=9000, mac="02:00:00:00:00:07")
    assert (tap.mtu, tap.mac) == (9000, "02:00:00:00:00:07")
    tap.set_mtu(1400)
    assert "mtu 1400" in run("ip", "link", "show", "tap0")
    assert tap.mtu == 1400
    with pytest.raises(PortError, match=r"port 'tap0': TAP device 'tap0' does not take mtu 70000"):
        tap.set_mtu(70000)
    tap.close()
    assert "tap0" not in run("ip", "link")


def test_descriptors_outlive_the_engine(arena: Arena) -> None:
    kept: dict[str, list[int]] = {}

    def keep(name: str, fds: list[int]) -> None:
        kept[name] = [os.dup(fd) for fd in fds]

    first = open_port(arena, Tap, "tap0", queues=2, keep=keep)
    run("ip", "address", "add", "10.0.0.1/24", "dev", "tap0")
    run("ip", "link", "set", "tap0", "name", "mine0")
    assert isinstance(first, Tap)
    first._close_fds()  # as when the engine is killed: no close, no forgetting
    second = open_port(arena, Tap, "tap0", queues=2, adopt=lambda name: kept.pop(name, None))
    assert "10.0.0.1/24" in run("ip", "address", "show", "mine0")
    assert second.check() == ("up", "")
    forgotten: list[str] = []
    second.context.forget = forgotten.append
    second.close()
    assert forgotten == ["tap0/tap0"]
    assert "mine0" not in run("ip", "link")


@pytest.mark.parametrize("other", ["deleted", "another", "fewer"])
def test_kept_descriptors_of_another_device_are_not_used(arena: Arena, other: str) -> None:
    before = open_port(arena, Tap, "old0")
    assert isinstance(before, Tap)
    kept = {before._kept_as: [os.dup(fd) for fd in before._fds]}
    if other == "deleted":
        run("ip", "link", "delete", "old0")
    name = "new0" if other == "another" else "old0"
    if other == "fewer":
        before.close()
    after = open_port(arena, Tap, name, queues=2 if other == "fewer" else 1, adopt=kept.get)
    assert after.check() == ("up", "")
    assert after.netdev == name
    after.close()
    if other != "fewer":
        before.close()


def test_persistent_device_is_attached_to_and_left(arena: Arena) -> None:
    run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    run("ip", "address", "add", "10.0.0.1/24", "dev", "tap0")
    tap = open_port(arena, Tap, "vm", device="tap0", owner="root", group="0")
    assert tap.netdev == "tap0"
    tap.close()
    assert "10.0.0.1/24" in run("ip", "address", "show", "tap0")
    run("ip", "link", "delete", "tap0")
    open_port(arena, Tap, "stays", persist=True).close()
    assert "stays" in run("ip", "link")


def test_internal_port_belongs_to_the_host(arena: Arena) -> None:
    port = open_port(arena, Internal, "br0")
    queues = Queues(arena, port)
    run("ip", "address", "add", "10.0.0.1/24", "dev", "br0")
    header = "ffffffffffff 020000000002 0806 0001 0800 06 04 0001"
    arp = bytes.fromhex(header + "020000000002 0a000002 000000000000 0a000001")
    queues.wait(0.1)
    queues.send(arp)
    answers = [data for _packet, data in queues.wait() if data[12:14] == b"\x08\x06"]
    assert answers
    assert answers[0][:6] == bytes.fromhex("020000000002")
    port.close()


def test_lookups_follow_the_device_into_a_namespace(arena: Arena, tap: Tap, host: Host) -> None:
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")  # a stranger of the same name, down
    host.take("tap0", "10.0.0.1/24")
    assert tap.check() == ("up", "")
    tap.set_mtu(1300)
    assert "mtu 1300" in host.run("ip", "link", "show", "eth0")
    with Links() as links:
        stranger = links.get("eth0")
    assert stranger is not None
    assert stranger.mtu == 1500


def test_errors_name_the_port_and_the_value(arena: Arena, tap: Tap) -> None:
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    wrong: list[tuple[dict[str, object], str]] = [
        ({"device": "a-name-of-16-chrs"}, "'a-name-of-16-chrs' cannot name a net device"),
        ({"device": "tap%d"}, "'tap%d' cannot name"),
        ({"device": "tap0"}, "'tap0' is in use by another process or port"),
        ({"device": "va"}, "'va' exists and is not a TAP device"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "mac 'ff:ff:ff:ff:ff:ff' is not a unicast"),
        ({"mac": "2:0:0:0:0:1"}, "mac '2:0:0:0:0:1' is not"),
        ({"owner": "nobody-of-that-name"}, "owner 'nobody-of-that-name'"),
        ({"mtu": 12}, "'vm' does not take mtu 12"),
    ]
    for options, text in wrong:
        with pytest.raises(PortError, match="port 'vm'") as caught:
            open_port(arena, Tap, "vm", **options)
        assert text in str(caught.value)
        assert "vm:" not in run("ip", "link")


def test_no_rights() -> None:
    program = (
        "import os; from penstock.ports.tap import Tap; from penstock.ports.base import PortContext, PortError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Tap('vm1', Tap.Options(), PortContext(None)).open()\n"
        "except PortError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == (
        "port 'vm1': no right to open TAP device 'vm1': run as root or with the capability CAP_NET_ADMIN\n"
    ), done.stderr


def test_a_full_kernel_queue_is_counted(arena: Arena, tap: Tap, host: Host) -> None:
    host.take("tap0", "10.0.0.1/24")
    with host.raw_socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        raw.setblocking(False)
        for _ in range(3000):
            try:
                raw.send(ETHERNET + bytes(50))
            except BlockingIOError:
                break
    queues = Queues(arena, tap)
    received = sum(iter(queues.receive, 0))
    assert received >= 500
    assert tap.driver_stats()["rx_queue_full"] > 0 or received < 3000
