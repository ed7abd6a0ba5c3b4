"""VXLAN against the Linux kernel's own: a host whose packets the kernel encapsulates, and hosts behind the switch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.demo.echo import ping
from penstock.demo.hosts import Host
from tests.system.lab import Lab

CONFIG = """
[bridge.under]
[bridge.under.port.nic]
type = "packet"
netdev = "nic"
[bridge.under.port.host0]
type = "internal"
[bridge.over]
[bridge.over.port.vm1]
type = "tap"
mtu = 1450
[bridge.over.port.tun4]
type = "vxlan"
remote_ip = "10.0.0.2"
key = 5001
"""


class Underlay:
    """The switch's side of a link, 10.0.0.1 and fd00::1, and the far end's."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.far = lab.veth("nic", "10.0.0.2/24", "fd00::2/64")

    def begin(self, config: str) -> None:
        self.lab.start(config)
        self.lab.site.assign("host0", "10.0.0.1/24", "fd00::1/64")

    def device(self, host: Host, name: str, *addresses: str, **attributes: object) -> None:
        """A tunnel device of the kernel in the far end's namespace."""
        host.netlink.link("add", ifname=name, **attributes)
        host.assign(name, *addresses)


@pytest.fixture
def underlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Underlay]:
    with Lab(tmp_path_factory.mktemp("vxlan")) as lab:
        yield Underlay(lab)


def test_hosts_reach_each_other_through_the_kernels_vxlan(underlay: Underlay) -> None:
    underlay.begin(CONFIG)
    vm1 = underlay.lab.plug("vm1", "192.168.0.1/24", "fd01::1/64")
    underlay.device(
        underlay.far, "vx0", "192.168.0.2/24", "fd01::2/64", kind="vxlan", vxlan_id=5001, vxlan_port=4789,
        vxlan_group="10.0.0.1", vxlan_local="10.0.0.2",
    )  # fmt: skip
    assert ping(vm1, "192.168.0.2").received == 3
    assert ping(underlay.far, "192.168.0.1").received == 3
    assert ping(vm1, "fd01::2").received == 3
    assert ping(vm1, "192.168.0.2", size=1400).received == 3
    assert ping(vm1, "192.168.0.2", size=8000).received == 3
