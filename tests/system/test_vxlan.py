"""VXLAN against the Linux kernel's own: a host whose packets the kernel encapsulates, and hosts behind the switch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.demo import traffic
from penstock.demo.echo import ping
from penstock.demo.hosts import Host
from tests.system.frames import Wire
from tests.system.lab import Lab, eventually, unanswered
from tests.system.ofctl import Ofctl
from tests.system.tunnels import HERE, THERE, Site, dissect

MEGABYTES = 100

OVERLAY = """
[bridge.over]
[bridge.over.port.vm1]
type = "tap"
mtu = 1450
[bridge.over.port.tun4]
type = "vxlan"
remote_ip = "10.0.0.2"
key = 5001
[bridge.over6]
[bridge.over6.port.vm6]
type = "tap"
mtu = 1430
[bridge.over6.port.tun6]
type = "vxlan"
remote_ip = "fd00::2"
key = 5002
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Lab(tmp_path_factory.mktemp("vxlan")) as lab:
        site = Site(lab)
        site.begin(OVERLAY)
        lab.plug("vm1", "192.168.0.1/24", "fd01::1/64")
        lab.plug("vm6", "192.168.1.1/24", "fd02::1/64")
        site.vxlan("vx1", 5001, "192.168.0.2/24", "fd01::2/64")
        site.vxlan("vx6", 5002, "192.168.1.2/24", "fd02::2/64", mtu=1430, six=True)
        yield site


CASES = {
    "IPv4 in IPv4": ("vm1", "192.168.0.1", "192.168.0.2"),
    "IPv6 in IPv4": ("vm1", "fd01::1", "fd01::2"),
    "IPv4 in IPv6": ("vm6", "192.168.1.1", "192.168.1.2"),
    "IPv6 in IPv6": ("vm6", "fd02::1", "fd02::2"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_hosts_reach_each_other_whole_and_in_fragments(site: Site, case: str) -> None:
    name, near, far = CASES[case]
    for size in (0, 56, 1300, 4000, 20000):
        assert ping(site.lab.hosts[name], far, size=size).received == 3, size
        assert ping(site.far, near, size=size).received == 3, size


def transfer(source: Host, target: Host, address: str) -> None:
    """A TCP stream whose content must come through as it was sent."""
    receiving = traffic.receiver(target, "tcp", 5001, "--hash")
    sending = traffic.sender(source, "tcp", address, 5001, "--hash", "--bytes", str(MEGABYTES * 1_000_000))
    sent, received = traffic.result(sending), traffic.result(receiving)
    assert received["bytes"] == sent["bytes"] == MEGABYTES * 1_000_000
    assert received["sha256"] == sent["sha256"]


@pytest.mark.parametrize("case", list(CASES))
def test_tcp_passes_whole_segments_both_ways(site: Site, case: str) -> None:
    name, near, far = CASES[case]
    vm = site.lab.hosts[name]
    port = {"vm1": "tun4", "vm6": "tun6"}[name]
    before, lost = site.lab.counters(port), site.lab.drops(port)
    transfer(vm, site.far, far)
    transfer(site.far, vm, near)
    after = site.lab.counters(port)
    # Segments were cut for the link and for each once; what the kernel sends comes in one piece, as it handed it over.
    assert after["tx_packets"] - before["tx_packets"] > MEGABYTES * 1e6 / 1450
    assert (after["rx_bytes"] - before["rx_bytes"]) / (after["rx_packets"] - before["rx_packets"]) > 3000
    assert site.lab.drops(port) == lost


@pytest.mark.needs("tshark", "tcpdump")
def test_tshark_agrees_with_every_field(site: Site, tmp_path: Path) -> None:
    vm1, vm6 = site.lab.hosts["vm1"], site.lab.hosts["vm6"]
    with site.captured(tmp_path) as file:
        assert ping(vm1, "192.168.0.2").received == 3
        assert ping(vm6, "192.168.1.2").received == 3
    fields = ("ip.src", "ip.dst", "ip.ttl", "ip.flags.df", "udp.dstport", "udp.checksum", "vxlan.flags", "vxlan.vni")
    found = dissect(file, *fields, display="vxlan.vni == 5001 && icmp.type == 8")
    assert (
        found
        == [[f"{HERE},192.168.0.1", f"{THERE},192.168.0.2", "64,64", "1,1", "4789", "0x0000", "0x0800", "5001"]] * 3
    )
    fields = ("ipv6.src", "ipv6.dst", "ipv6.hlim", "udp.dstport", "udp.checksum.status", "vxlan.vni")
    bad = dissect(file, "frame.number", display="_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0")
    assert bad == []
    found = dissect(file, *fields, display="vxlan.vni == 5002 && icmp.type == 8 && ipv6.src == fd00::1")
    assert [row[:4] + row[5:] for row in found] == [["fd00::1", "fd00::2", "64", "4789", "5002"]] * 3


def test_the_host_answers_for_its_address(site: Site) -> None:
    assert ping(site.far, HERE).received == 3
    assert ping(site.far, "fd00::1").received == 3


def test_the_far_end_is_shown(site: Site) -> None:
    rows = {row["port"]: row for row in site.lab.switch.query("tunnels")}
    assert rows["tun4"]["remote"] == THERE
    assert rows["tun4"]["local"] == HERE
    assert rows["tun4"]["mac"] == site.far.mac("eth0")
    assert (rows["tun4"]["state"], rows["tun6"]["state"]) == ("ready", "ready")
    done = site.lab.switch.command("tunnels")
    assert THERE in done.stdout
    assert site.far.mac("eth0") in done.stdout


def test_a_trace_goes_through_the_tunnel(site: Site) -> None:
    ping(site.lab.hosts["vm1"], "192.168.0.2", count=1)
    done = site.lab.switch.command("trace", "over", f"in_port=vm1,dl_dst={site.far.mac('vx1')}")
    assert "packed into the tunnel of port 'tun4': 50 bytes of header" in done.stdout
    assert "leaves by port 'nic'" in done.stdout


def test_a_neighbour_that_changes_loses_nothing(site: Site) -> None:
    """The far end's MAC address changes, and says so, while packets pass."""
    vm1 = site.lab.hosts["vm1"]
    process = vm1.start("ping", "-c", "300", "-i", "0.01", "-W", "1", "192.168.0.2")
    time.sleep(0.5)
    for octet in (1, 2, 3):
        site.far.down("eth0")
        site.far.change("eth0", address=f"02:ee:00:00:00:{octet:02x}")
        site.far.assign("eth0", "fd00::2/64")
        site.far.run("arping", "-U", "-c", "1", "-I", "eth0", THERE, check=False)
        ping(site.far, HERE, count=1)
        time.sleep(0.4)
    said, _ = process.communicate(timeout=20)
    received = int(said.partition(" received")[0].rpartition(" ")[2])
    assert received >= 290, said[-300:]


def by_flow(*flows: str, mtu: int = 1450, key: str = '"flow"', more: str = "") -> str:
    """A bridge whose flows choose the far end for what a host at vm1 sends."""
    lines = "".join(f"  {json.dumps(flow)},\n" for flow in flows)
    return f"""
[bridge.over]
flows = [
{lines}]
[bridge.over.port.vm1]
type = "tap"
mtu = {mtu}
[bridge.over.port.tun]
type = "vxlan"
remote_ip = "flow"
key = {key}
{more}
"""


def test_flows_choose_far_end_and_key(lab: Lab) -> None:
    site = Site(lab)
    overlay = by_flow(
        "in_port=vm1,actions=set_field:5001->tun_id,set_field:10.0.0.2->tun_dst,output:tun",
        "in_port=vm2,actions=set_field:5002->tun_id,set_field:10.0.0.2->tun_dst,output:tun",
        "in_port=tun,tun_id=5001,tun_src=10.0.0.2,tun_dst=10.0.0.1,actions=output:vm1",
        "in_port=tun,tun_id=5002,actions=output:vm2",
    )
    site.begin(f"""{overlay}
[bridge.over.port.vm2]
type = "tap"
mtu = 1450
""")
    vm1, vm2 = lab.plug("vm1", "192.168.0.1/24"), lab.plug("vm2", "192.168.0.1/24")
    site.vxlan("vx1", 5001, "192.168.0.2/24")
    assert ping(vm1, "192.168.0.2").received == 3
    assert unanswered(vm2, "192.168.0.2")
    site.far.delete("vx1")
    site.vxlan("vx2", 5002, "192.168.0.2/24")
    assert ping(vm2, "192.168.0.2").received == 3
    assert unanswered(vm1, "192.168.0.2")
    flows = Ofctl(lab.switch.rundir)("dump-flows", "over", "--no-stats")
    assert "tun_src=10.0.0.2" in flows


def test_flows_choose_far_ends_of_ipv6(lab: Lab) -> None:
    site = Site(lab)
    site.begin(
        by_flow(
            "in_port=vm1,actions=set_field:5001->tun_id,set_field:fd00::2->tun_ipv6_dst,output:tun",
            "in_port=tun,tun_id=5001,tun_ipv6_src=fd00::2,actions=output:vm1",
            mtu=1430,
        )
    )
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    site.vxlan("vx1", 5001, "192.168.0.2/24", mtu=1430, six=True)
    assert ping(vm1, "192.168.0.2").received == 3
    (row,) = lab.switch.query("tunnels")
    assert (row["remote"], row["local"], row["state"]) == ("fd00::2", "fd00::1", "ready")


def test_group_policy_is_carried_to_and_from_the_kernel(lab: Lab, tmp_path: Path) -> None:
    site = Site(lab)
    site.begin(
        by_flow(
            "in_port=vm1,actions=load:0x1234->NXM_NX_TUN_GBP_ID[],set_field:10.0.0.2->tun_dst,output:tun",
            "in_port=tun,actions=move:NXM_NX_TUN_GBP_ID[]->NXM_NX_REG0[0..15],resubmit(,1)",
            "table=1,reg0=0,actions=output:vm1",
            key="7",
            more='exts = ["gbp"]',
        )
    )
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    site.vxlan("vx1", 7, "192.168.0.2/24", vxlan_gbp=True)
    with site.captured(tmp_path) as file:
        assert ping(vm1, "192.168.0.2").received == 3
    found = dissect(file, "vxlan.flags", "vxlan.gbp", display="icmp.type == 8")
    assert found == [["0x8800", "4660"]] * 3


NETWORKS = """
[bridge.over]
[bridge.over.port.red]
type = "tap"
tag = 10
mtu = 1450
[bridge.over.port.blue]
type = "tap"
tag = 20
mtu = 1450
[bridge.over.port.overlay]
type = "vxlan"
local_ip = "10.0.0.1"
vnis = ["10=5010", "20=5020"]
remotes = [{remotes}]
"""


def test_jumbo_frames(lab: Lab) -> None:
    """An underlay of 9,000 bytes: frames of 8,950 pass in one piece, both ways, and TCP's segments with them."""
    site = Site(lab, mtu=9000)
    site.begin("""
[bridge.over]
[bridge.over.port.vm1]
type = "tap"
mtu = 8950
[bridge.over.port.tun]
type = "vxlan"
remote_ip = "10.0.0.2"
key = 5001
""")
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    site.vxlan("vx1", 5001, "192.168.0.2/24", mtu=8950)
    assert ping(vm1, "192.168.0.2").received == 3
    before, lost = lab.counters("tun"), lab.drops("tun")
    assert ping(vm1, "192.168.0.2", size=8950 - 28).received == 3
    assert ping(site.far, "192.168.0.1", size=8950 - 28).received == 3
    after = lab.counters("tun")
    assert after["tx_packets"] - before["tx_packets"] < 12
    assert after["tx_bytes"] - before["tx_bytes"] > 6 * 8950
    transfer(vm1, site.far, "192.168.0.2")
    transfer(site.far, vm1, "192.168.0.1")
    assert lab.drops("tun") == lost


def test_networks_without_a_controller(lab: Lab) -> None:
    """VLANs as VNIs: flooded to the far ends of each, then sent where the address was learned."""
    site = Site(lab)
    site.begin(NETWORKS.format(remotes='"10.0.0.2", "5020@10.0.0.99"'))
    red, blue = lab.plug("red", "192.168.0.1/24"), lab.plug("blue", "192.168.0.1/24")
    site.vxlan("vx10", 5010, "192.168.0.2/24")
    assert ping(red, "192.168.0.2").received == 3
    assert unanswered(blue, "192.168.0.2")
    fdb = {(row["mac"], row["vlan"]): row for row in lab.switch.query("fdb", "over")}
    learned = fdb[site.far.mac("vx10"), 10]
    assert (learned["port"], learned["remote"]) == ("overlay", THERE)
    states = {row["remote"]: row["state"] for row in lab.switch.query("tunnels")}
    assert states[THERE] == "ready"
    assert states["10.0.0.99"] != "ready"
    lab.reload()
    assert ping(red, "192.168.0.2").received == 3
    fdb = {(row["mac"], row["vlan"]): row for row in lab.switch.query("fdb", "over")}
    assert fdb[site.far.mac("vx10"), 10]["remote"] == THERE


def test_a_multicast_group_finds_far_ends(lab: Lab) -> None:
    site = Site(lab)
    site.begin(NETWORKS.format(remotes='"239.1.1.1"'))
    red = lab.plug("red", "192.168.0.1/24")
    site.vxlan("vx10", 5010, "192.168.0.2/24", vxlan_group="239.1.1.1", vxlan_link=site.far.index("eth0"))
    assert ping(site.far, "192.168.0.1").received == 3
    assert ping(red, "192.168.0.2").received == 3
    fdb = {(row["mac"], row["vlan"]): row for row in lab.switch.query("fdb", "over")}
    assert fdb[site.far.mac("vx10"), 10]["remote"] == THERE


def test_malformed_packets_are_dropped_with_a_reason(site: Site) -> None:
    source, target = site.far.mac("eth0"), site.lab.site.mac("host0")
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    def outer(payload: bytes) -> bytes:
        return bytes(
            Ether(src=source, dst=target) / IP(src=THERE, dst=HERE) / UDP(sport=1, dport=4789, chksum=0) / Raw(payload)
        )

    before = site.lab.drops("host0")
    with Wire(site.far) as wire:
        wire.send(
            outer(b"\x08\0\0\0\0\x13"),
            outer(b"\x08\0\0\x01" + (5001 << 8).to_bytes(4, "big") + bytes(60)),
            outer(b"\x08\0\0\0" + (5001 << 8 | 1).to_bytes(4, "big") + bytes(60)),
            outer(b"\x08\0\0\0" + (4242 << 8).to_bytes(4, "big") + bytes(60)),
        )
    told = {"tunnel_header": 3, "tunnel_unknown": 1}

    def are_counted() -> bool:
        # At least: the far kernel's own devices may say something meanwhile that no tunnel is for.
        now = site.lab.drops("host0")
        return all(now.get(reason, 0) - before.get(reason, 0) >= count for reason, count in told.items())

    eventually("four drops", are_counted)


@pytest.mark.parametrize("version", [4, 6])
def test_too_big_packets_get_an_answer_of_the_overlays_address(lab: Lab, version: int) -> None:
    """A VM whose MTU knows nothing of the tunnel learns what goes in; TCP and large pings pass afterwards."""
    site = Site(lab)
    site.begin("""
[bridge.over]
[bridge.over.port.vm1]
type = "tap"
[bridge.over.port.router]
type = "internal"
[bridge.over.port.tun]
type = "vxlan"
remote_ip = "10.0.0.2"
key = 5001
""")
    near, far, own = {4: ("192.168.0.1", "192.168.0.2", "192.168.0.254"), 6: ("fd01::1", "fd01::2", "fd01::fe")}[
        version
    ]
    bits = 24 if version == 4 else 64
    vm1 = lab.plug("vm1", f"{near}/{bits}")
    lab.site.assign("router", f"{own}/{bits}")
    site.vxlan("vx1", 5001, f"{far}/{bits}", mtu=1450)
    assert ping(vm1, far).received == 3
    assert unanswered(vm1, far, size=1440)
    assert ping(vm1, far, size=1440).received == 3
    assert lab.drops("tun")["mtu_exceeded"] >= 1
    transfer(vm1, site.far, far)


def test_many_far_ends_at_once(lab: Lab) -> None:
    """Far ends by flow, first met under load from several hosts: all are resolved, and nothing else suffers."""
    site = Site(lab)
    site.begin(
        by_flow(
            "in_port=vm1,ip,actions=move:NXM_OF_IP_DST[]->NXM_NX_TUN_IPV4_DST[],output:tun",
            "in_port=tun,actions=output:vm1",
            mtu=1500,
            key="0",
        )
    )
    for number in range(20, 40):
        site.far.netlink.addr("add", index=site.far.index("eth0"), address=f"10.0.0.{number}", prefixlen=24)
    vm1 = lab.plug("vm1", "10.0.0.250/24")
    vm1.run("ip", "neigh", "flush", "all", check=False)
    for number in range(20, 40):
        vm1.netlink.neigh(
            "add", dst=f"10.0.0.{number}", lladdr="02:00:00:00:00:01", ifindex=vm1.index("eth0"), state="permanent"
        )
    threads = [
        threading.Thread(target=ping, args=(vm1, f"10.0.0.{number}"), kwargs={"count": 1, "timeout": 0.2})
        for number in range(20, 40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(
        "twenty far ends",
        lambda: sorted(row["state"] for row in lab.switch.query("tunnels")) == ["ready"] * 20,
    )
    assert lab.drops("tun") == {}
    assert lab.counters("tun")["tx_packets"] >= 20


def test_tunnels_come_back_with_a_new_engine(lab: Lab) -> None:
    """The engine is killed: the next one has the tunnels again, and the packets that wait are those of then."""
    site = Site(lab)
    site.begin(OVERLAY)
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    site.vxlan("vx1", 5001, "192.168.0.2/24")
    assert ping(vm1, "192.168.0.2").received == 3
    killed = lab.switch.kill("engine")
    lab.switch.await_return("engine", killed)
    eventually("the tunnel to pass packets", lambda: ping(vm1, "192.168.0.2", count=1, timeout=0.3).received == 1, 20)
    assert ping(vm1, "192.168.0.2").received == 3


def test_a_next_hop_that_dies_and_comes_back(lab: Lab) -> None:
    """No answer to ARP: packets wait, then are dropped with the reason told; with the host back they pass."""
    site = Site(lab)
    site.far.run("ip", "link", "set", "eth0", "arp", "off")  # before anybody knows its address
    site.begin(OVERLAY)
    vm1 = lab.plug("vm1", "192.168.0.1/24")
    assert ping(vm1, "192.168.0.2", count=5, timeout=0.2).received == 0

    def told() -> dict[str, str]:
        return next(row for row in lab.switch.query("tunnels") if row["port"] == "tun4")

    eventually("the next hop to be given up", lambda: "does not answer" in told()["error"], 15)
    assert told()["state"] == "error"
    assert lab.drops("tun4")["tunnel_unresolved"] > 0
    site.far.run("ip", "link", "set", "eth0", "arp", "on")
    site.vxlan("vx1", 5001, "192.168.0.2/24")
    eventually("packets to pass", lambda: ping(vm1, "192.168.0.2", count=1, timeout=0.3).received == 1, 15)
    assert told()["state"] == "ready"
