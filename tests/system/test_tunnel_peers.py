"""Open vSwitch's user-space datapath at the other end of VXLAN, Geneve and GRE, over IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.demo.echo import ping
from penstock.demo.hosts import Host
from tests.system.lab import Lab
from tests.system.tunnels import HERE, HERE6, THERE, THERE6, FarSwitch, Site

pytestmark = pytest.mark.needs("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ethtool")

# By name: kind and options, at both ends but for remote_ip.
TUNNELS = {
    "vxlan": ("vxlan", {"key": "5001"}),
    "vxlan-checksum": ("vxlan", {"key": "16777215", "csum": "true"}),
    "vxlan-port": ("vxlan", {"key": "5", "dst_port": "8472"}),
    "geneve": ("geneve", {"key": "5002"}),
    "geneve-checksum": ("geneve", {"key": "5003", "csum": "true"}),
    "gre": ("gre", {}),
    "gre-key": ("gre", {"key": "4000000000"}),
    "gre-checksum": ("gre", {"key": "6", "csum": "true"}),
}
NUMBERS = {"key", "dst_port"}
MTU = 1370


def config() -> str:
    """A bridge, a host and a tunnel for each kind and IP version."""
    text = ""
    for name, (kind, options) in TUNNELS.items():
        for version, remote in ((4, THERE), (6, THERE6)):
            text += f"""
[bridge.over-{name}-{version}]
[bridge.over-{name}-{version}.port.{short(name, version)}]
type = "tap"
mtu = {MTU}
[bridge.over-{name}-{version}.port.{name}-{version}]
type = "{kind}"
remote_ip = "{remote}"
"""
            text += "".join(f"{key} = {value}\n" for key, value in options.items())
    return text


def short(name: str, version: int) -> str:
    return f"vm{list(TUNNELS).index(name)}-{version}"


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, FarSwitch, Host]]:
    with Lab(tmp_path_factory.mktemp("peers")) as lab:
        site = Site(lab)
        far = FarSwitch(site, tmp_path_factory.mktemp("ovs"))
        site.begin(config())
        host = far.host("behind", "192.168.0.2/24", "fd01::2/64")
        yield site, far, host


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", list(TUNNELS))
def test_hosts_reach_each_other(ends: tuple[Site, FarSwitch, Host], name: str, version: int) -> None:
    site, far, behind = ends
    kind, options = TUNNELS[name]
    far.tunnel("tun", kind, remote_ip=HERE if version == 4 else f"{HERE6}", **options)
    try:
        vm = site.lab.plug(short(name, version), "192.168.0.1/24", "fd01::1/64")
        behind.run("ip", "neigh", "flush", "all", check=False)
        assert ping(vm, "192.168.0.2", timeout=3).received == 3
        assert ping(behind, "192.168.0.1").received == 3
        assert ping(vm, "fd01::2").received == 3
        assert ping(vm, "192.168.0.2", size=1300).received == 3
        assert ping(behind, "192.168.0.1", size=5000).received == 3
        site.lab.switch.query("tunnels", f"{name}-{version}")
    finally:
        far.ovs.vsctl("del-port", "br0", "tun")
