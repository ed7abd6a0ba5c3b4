"""Real virtual machines: a Linux kernel in QEMU on vhost-user ports and on an emulated card, beside a host on a TAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from penstock.demo import traffic
from penstock.demo.echo import Missing, ping
from penstock.demo.initramfs import GuestError
from penstock.demo.vm import Machine, Tap, VhostUser, accelerator, data, kernel_with
from penstock.demo.vm_traffic import (
    pinged,
    receive,
    received,
    send,
    sent_digest,
    start_pinging,
    start_sending,
)
from tests.system.lab import Lab, eventually

pytestmark = pytest.mark.needs("qemu-system-x86_64", "busybox", "ethtool")

CONFIG = """
[bridge.br0]
[bridge.br0.port.host1]
type = "tap"
[bridge.br0.port.vm1]
type = "vhost-user"
path = "{directory}/vm1.sock"
mode = "server"
queues = 2
[bridge.br0.port.vm2]
type = "vhost-user"
path = "{directory}/vm2.sock"
mode = "client"
[bridge.br0.port.vm3]
type = "vhost-user"
path = "{directory}/vm3.sock"
mode = "server"
[bridge.br0.port.vm4]
type = "vhost-user"
path = "{directory}/vm4.sock"
mode = "server"
"""
HOST = "10.0.0.100", "fd00::100"
ADDRESSES = {
    name: (f"10.0.0.{number}", f"fd00::{number}") for number, name in enumerate(("vm1", "vm2", "vm3", "vm4", "vm5"), 1)
}
MACS = {name: f"52:54:00:00:00:0{number}" for number, name in enumerate(ADDRESSES, 1)}

# Bits of virtio features (virtio 1.2, sections 5.1.3 and 6).
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, MQ = 0, 1, 7, 8, 11, 12, 15, 22
INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED = 28, 29, 32, 34
OFFLOADS = {CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6}


def need_kernel(*modules: str) -> None:
    """Skip where no kernel can be booted that has the modules."""
    try:
        kernel_with(*modules)
    except GuestError as error:
        pytest.skip(str(error))


def boot(stack: ExitStack, lab: Lab, *cards: VhostUser, processors: int = 1) -> list[Machine]:
    """Boot a machine for each card at the same time, called by its socket's name, and give it its addresses."""
    machines = []
    for card in cards:
        machine = Machine(lab.site, lab.directory / card.path.stem, [card], processors=processors)
        machines.append(stack.enter_context(machine))
    for machine in machines:
        join(machine)
    return machines


def join(machine: Machine) -> None:
    """Wait until a machine has booted, and give it its addresses."""
    machine.ready()
    address4, address6 = ADDRESSES[machine.name]
    machine.assign(f"{address4}/24")
    machine.assign(f"{address6}/64")


def card(lab: Lab, name: str, features: str = "", queues: int = 1, server: bool = False) -> VhostUser:
    return VhostUser(lab.directory / f"{name}.sock", MACS[name], server, queues, features)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_kernel()
    with Lab(tmp_path_factory.mktemp("vm"), spare=True) as lab:
        lab.start(CONFIG.format(directory=lab.directory))
        lab.plug("host1", f"{HOST[0]}/24", f"{HOST[1]}/64")
        yield lab


@pytest.fixture(scope="module")
def machines(lab: Lab) -> Iterator[tuple[Machine, Machine]]:
    """One machine with two queues and two processors, on a socket where the switch listens; one where QEMU does."""
    with ExitStack() as stack:
        (vm1,) = boot(stack, lab, card(lab, "vm1", queues=2), processors=2)
        (vm2,) = boot(stack, lab, card(lab, "vm2", server=True))
        yield vm1, vm2


def reaches(machine: Machine, address: str) -> bool:
    return "3 packets received" in machine.run(f"ping -c 3 -i 0.1 -W 2 {address}", check=False).output


def carry(source: Machine, target: Machine, address: str, port: int = 5001) -> float:
    """Send a file, whose content must come through as it was; returns Mb/s."""
    receive(target, port)
    seconds = send(source, address, port)
    assert received(target, port) == sent_digest()
    return len(data()) * 8e-6 / seconds


def exchange_with_host(lab: Lab, machine: Machine, version: int) -> None:
    """TCP from the host to a machine, then from the machine to the host."""
    host, index = lab.hosts["host1"], 0 if version == 4 else 1
    receive(machine, 5002)
    sending = traffic.sender(host, "tcp", ADDRESSES[machine.name][index], 5002, "--hash", "--bytes", "5000000")
    sent = traffic.result(sending)
    assert received(machine, 5002) == sent["sha256"]
    receiving = traffic.receiver(host, "tcp", 5003, "--hash")
    send(machine, HOST[index], 5003)
    assert traffic.result(receiving)["sha256"] == sent_digest()


def test_everybody_reaches_everybody(lab: Lab, machines: tuple[Machine, Machine]) -> None:
    for index in (0, 1):
        for machine, other in (machines, machines[::-1]):
            assert reaches(machine, ADDRESSES[other.name][index])
            assert reaches(machine, HOST[index])
            assert ping(lab.hosts["host1"], ADDRESSES[machine.name][index]).received == 3
    for machine in machines:
        assert lab.fdb()[MACS[machine.name], 0] == machine.name


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_between_machines_and_a_host(lab: Lab, machines: tuple[Machine, Machine], version: int) -> None:
    for machine in machines:
        exchange_with_host(lab, machine, version)


def test_large_segments_pass_from_machine_to_machine(
    lab: Lab, machines: tuple[Machine, Machine], measured: Callable[[str], None]
) -> None:
    """The drivers agree on every offload and on mergeable buffers, and what the one does not cut, nobody cuts."""
    for machine in machines:
        assert machine.negotiated() >= OFFLOADS | {MRG_RXBUF, VERSION_1}
        on = machine.offloads()
        assert on["tx-checksumming"]
        assert on["tx-tcp-segmentation"]
        assert on["tx-tcp6-segmentation"]
        assert on["rx-checksumming"]
    for source, target in (machines, machines[::-1]):
        before = lab.counters(source.name), lab.counters(target.name)
        rate = carry(source, target, ADDRESSES[target.name][0])
        after = lab.counters(source.name), lab.counters(target.name)
        sizes = [
            (new[f"{way}_bytes"] - old[f"{way}_bytes"]) / (new[f"{way}_packets"] - old[f"{way}_packets"])
            for old, new, way in zip(before, after, ("rx", "tx"), strict=True)
        ]
        measured(
            f"TCP from {source.name} to {target.name} ({accelerator()}): {rate:.0f} Mb/s, {sizes[0]:.0f} bytes a frame"
        )
        assert min(sizes) > 10_000, "segments come in whole and leave whole"


def test_every_queue_takes_part(lab: Lab, machines: tuple[Machine, Machine]) -> None:
    """Flows are spread over the two queues of a port, both ways."""
    vm1, vm2 = machines
    assert MQ in vm1.negotiated()
    assert "Combined:\t2" in vm1.run("ethtool -l eth0 | tail -1").output
    before = vm1.statistics()
    carry(vm1, vm2, ADDRESSES["vm2"][0])
    carry(vm2, vm1, ADDRESSES["vm1"][0])
    # Nobody listens at these ports: 40 more flows of one segment each.
    vm2.run(f"for port in $(seq 6000 6039); do nc {ADDRESSES['vm1'][0]} $port </dev/null; done", check=False)
    after = vm1.statistics()
    moved = {name: after[name] - before[name] for name in after if name.endswith("_packets")}
    for queue in (0, 1):
        assert moved[f"rx_queue_{queue}_packets"] > 0
    # A guest's own process stays on the queue of its processor, so both processors send.
    for processor in (0, 1):
        vm1.run(f"taskset {1 << processor} ping -c 3 -i 0.1 {ADDRESSES['vm2'][0]}")
    for queue in (0, 1):
        assert vm1.statistics()[f"tx_queue_{queue}_packets"] > before[f"tx_queue_{queue}_packets"]


@dataclass(frozen=True)
class Variant:
    """Properties of the virtio-net device, and the feature bits that must and must not have been negotiated by them."""

    properties: str
    on: frozenset[int] = frozenset()
    off: frozenset[int] = frozenset()


PACKED = Variant("packed=on", on=frozenset({RING_PACKED, VERSION_1, MRG_RXBUF}))
LEGACY = Variant("disable-modern=on,disable-legacy=off", on=frozenset({MRG_RXBUF}), off=frozenset({VERSION_1}))
BIG_BUFFERS = Variant("mrg_rxbuf=off", on=frozenset({GUEST_TSO4, HOST_TSO4}), off=frozenset({MRG_RXBUF}))
PLAIN = Variant(
    "csum=off,guest_csum=off,gso=off,host_tso4=off,host_tso6=off,host_ufo=off,guest_tso4=off,guest_tso6=off,"
    "guest_ufo=off,mrg_rxbuf=off,indirect_desc=off,event_idx=off",
    off=frozenset({*OFFLOADS, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX}),
)


@pytest.mark.parametrize(
    ("one", "other"), [(PACKED, BIG_BUFFERS), (LEGACY, PLAIN)], ids=["packed to big buffers", "legacy to plain"]
)
def test_other_layouts_and_features(lab: Lab, one: Variant, other: Variant) -> None:
    """Guests that agree on less, or on other rings, take part; each pair comes to ports that others left."""
    with ExitStack() as stack:
        machines = boot(stack, lab, card(lab, "vm3", one.properties), card(lab, "vm4", other.properties))
        for machine, variant in zip(machines, (one, other), strict=True):
            assert variant.on <= machine.negotiated()
            assert not variant.off & machine.negotiated()
        for source, target in (machines, machines[::-1]):
            carry(source, target, ADDRESSES[target.name][0])
            exchange_with_host(lab, source, 6)


@pytest.mark.parametrize("model", ["e1000", "vmxnet3"])
def test_an_emulated_card_on_a_tap(lab: Lab, model: str) -> None:
    """QEMU makes the TAP, and the switch takes it as a packet port."""
    need_kernel(model)
    name = "vm5"
    port = f'[bridge.br0.port.{name}]\ntype = "packet"\nnetdev = "{name}"\n'
    with Machine(lab.site, lab.directory / name, [Tap(name, MACS[name], model)]) as machine:
        eventually("QEMU's TAP is there", lambda: name in lab.site.links())
        lab.reload(CONFIG.format(directory=lab.directory) + port)
        join(machine)
        assert reaches(machine, HOST[0])
        exchange_with_host(lab, machine, 4)
    lab.reload(CONFIG.format(directory=lab.directory))


def test_traffic_goes_on_after_the_engine_was_killed(
    lab: Lab, machines: tuple[Machine, Machine], measured: Callable[[str], None]
) -> None:
    """Guests keep their cards, whichever side listens, and nothing that was received is damaged."""
    vm1, vm2 = machines
    receive(vm2, 5020)
    before = vm2.statistics()["rx_queue_0_packets"]
    start_pinging(vm2, HOST[0], 80, 0.05)
    start_sending(vm1, ADDRESSES["vm2"][0], 5020)
    eventually("the stream flows", lambda: vm2.statistics()["rx_queue_0_packets"] > before + 50)
    killed = lab.switch.kill("engine")
    assert vm2.run("[ -s /tmp/sum.5020 ]", check=False).code != 0, "it was killed in mid-stream"
    back = lab.switch.await_return("engine", killed)
    assert received(vm2, 5020) == sent_digest()
    missing = Missing.of(pinged(vm2), 80)
    measured(f"engine killed under two guests: ready again after {back:.2f} s; {missing.count} of 80 pings lost")
    assert missing.longest * 0.05 < 3
    for machine, other in (machines, machines[::-1]):
        assert reaches(machine, ADDRESSES[other.name][0])
