"""A stream's declaration and what it refuses; the throughput search against devices that are only said to be."""

from __future__ import annotations

import random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.main import penstock
from penstock.traffic.rfc2544 import Outcome, Search, search
from penstock.traffic.stream import SCHEDULE_MAX, Stream, StreamError
from penstock.traffic.values import IMIX, parse_mac, parse_number, parse_range, parse_rate, parse_sizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("64", (64,)), ("64,1518", (64, 1518)), ("64-66", (64, 65, 66)), ("64-100/20,imix", None), ("imix", IMIX)],
)
def test_sizes(text: str, sizes: tuple[int, ...] | None) -> None:
    if sizes is None:
        with pytest.raises(ValueError, match="'imix' is not a number"):
            parse_sizes(text)
    else:
        assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("text", "frames_per_second"),
    [("20000", 20_000), ("1.5Mpps", 1.5e6), ("3kpps", 3000), ("8Mbps", 10_000), ("0.8Gbit/s", 1e6), ("512kb/s", 640)],
)
def test_rates_for_frames_of_100_bytes(text: str, frames_per_second: float) -> None:
    rate = parse_rate(text)
    assert rate
    assert rate.frames_per_second(100) == pytest.approx(frames_per_second)


def test_the_rate_max_is_none() -> None:
    assert parse_rate("max") is None
    for text in ("", "0", "fast", "10 apples", "-5"):
        with pytest.raises(ValueError, match=f"rate '{text}' is not known"):
            parse_rate(text)


@given(st.integers(0, 1000), st.integers(0, 100), st.integers(1, 50), st.integers(0, 5000))
def test_ranges(first: int, length: int, step: int, index: int) -> None:
    found = parse_range(f"{first}-{first + length}/{step}", parse_number, 65_535)
    values = range(first, first + length + 1, step)
    assert len(found) == len(values)
    assert found.value(index, random.Random(1)) == values[index % len(values)]


def test_random_ranges_repeat_with_their_seed() -> None:
    found = parse_range("02:00:00:00:00:00-02:00:00:00:ff:ff/random", parse_mac, 1 << 48)
    one, other = random.Random(3), random.Random(3)
    values = [found.value(index, one) for index in range(100)]
    assert values == [found.value(index, other) for index in range(100)]
    assert len(set(values)) > 90
    assert all(found.first <= value <= found.last for value in values)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"size": "61"}, "size 61 is too small: headers, stamp and frame check sequence take 62 bytes"),
        ({"size": "64", "vlan": "5"}, "size 64 is too small: .* take 66 bytes"),
        ({"size": "70000"}, "size: '70000' goes beyond 65553"),
        ({"src_ip": "10.0.0.9-10.0.0.1"}, "src_ip: '10.0.0.9-10.0.0.1' ends before it begins"),
        ({"src_ip": "lots"}, "src_ip: 'lots' does not appear to be an IPv4 or IPv6 address"),
        ({"src_ip": "2001:db8::1"}, "src_ip '2001:db8::1' and dst_ip '198.19.0.1' are not of one IP version"),
        ({"dst_mac": "02:00"}, "dst_mac: '02:00' is no MAC address"),
        ({"vlan": "4096", "size": "68"}, "vlan: '4096' goes beyond 4095"),
        ({"src_port": "1-9/0"}, "src_port: '1-9/0': a step is 1 or more"),
        ({"src_ip": "10.0.0.0-10.255.255.255"}, f"16777216 flows are too many: at most {SCHEDULE_MAX}"),
        ({"first_flow": (1 << 24) - 1, "flows": 2}, "first_flow 16777215 and 2 flows go beyond 16777216"),
        ({"rate": "soon"}, "rate: rate 'soon' is not known"),
    ],
)
def test_streams_that_cannot_be(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(StreamError, match=text):
        Stream(**arguments)


def test_many_flows_of_many_sizes_fit_the_schedule() -> None:
    stream = Stream(size="64-1518", flows=1000)
    frames = list(stream.schedule())
    assert len(frames) <= SCHEDULE_MAX
    assert {each.flow for each in frames} == set(range(1000))
    assert len({each.frame.length for each in frames}) > 100


def device(capacity: float, generator: float = float("inf")) -> Any:
    """Trials of a device that loses what is beyond its capacity, by a generator that is only so fast."""

    def trial(rate: float) -> Outcome:
        offered = min(rate, generator)
        return Outcome(round(rate), max(0, round(offered - capacity)), offered >= rate * 0.99, None)

    return trial


@given(st.floats(100, 1e7), st.floats(0.001, 0.1))
def test_the_search_finds_the_capacity(capacity: float, resolution: float) -> None:
    found = search(device(capacity), 1e7, 64, Search(resolution=resolution))
    assert capacity * (1 - 2 * resolution) - 1 <= found.frames_per_second <= capacity + 1
    assert found.bits_per_second == found.frames_per_second * 512
    assert found.limited == (found.frames_per_second == 1e7)


def test_the_search_tolerates_what_it_is_told_to() -> None:
    strict = search(device(1000), 2000, 64, Search())
    loose = search(device(1000), 2000, 64, Search(tolerance=0.2))
    assert strict.frames_per_second <= 1001
    assert loose.frames_per_second == pytest.approx(1250, rel=0.02)


def test_the_search_says_when_the_generator_is_the_limit() -> None:
    found = search(device(1e9, generator=1000), 2000, 64, Search())
    assert found.limited
    assert found.frames_per_second <= 1011


def test_a_device_that_passes_nothing() -> None:
    found = search(device(0), 1e6, 64, Search())
    assert (found.frames_per_second, found.limited) == (0, False)
    assert found.trials < 40


def run(*arguments: str) -> Result:
    return CliRunner().invoke(penstock, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--port", "tpa"), "unknown kind of port 'tpa'; did you mean tap?"),
        (("--port", "patch:peer=a"), "unknown kind of port 'patch'"),
        (("--port", "packet:netdv=a"), "unknown option of packet 'netdv'; did you mean netdev?"),
        (("--port", "packet"), "packet needs netdev=VALUE"),
        (("--port", "packet:netdev=a,queues=many"), "queues 'many' is wrong: must be an integer from"),
        (("--port", "dummy:mtu=big"), "mtu 'big' is wrong"),
        (("--port", "dummy", "--count", "0"), "count '0' is wrong: must be an integer of at least 1"),
        (("--port", "dummy", "--protocol", "sctp"), "protocol 'sctp' is wrong: must be one of"),
        (("--port", "dummy", "--cpus", "9999"), "'9999' is none of the CPUs"),
        (("--port", "dummy", "--rfc2544"), "--rfc2544 needs --rx or --loopback"),
        (("--port", "dummy", "--expect-no-loss"), "--expect-no-loss needs --rx or --loopback"),
        (("--port", "dummy", "--rx", "dummy", "--loopback"), "--loopback and --rx exclude each other"),
    ],
)
def test_generate_called_wrongly(arguments: tuple[str, ...], text: str) -> None:
    done = run("generate", *arguments)
    assert done.exit_code == 2
    assert text in " ".join(done.output.split())


def test_receive_called_wrongly() -> None:
    done = run("receive", "--port", "dummy", "--answer", "10.0.0")
    assert done.exit_code == 2
    assert "'10.0.0' is no IPv4 address with prefix length, like 10.0.0.1/24" in " ".join(done.output.split())


def test_help_tells_every_setting_of_a_stream() -> None:
    done = run("generate", "--help")
    assert done.exit_code == 0
    for name in ("--size", "--src-mac", "--gso-size", "--trial-seconds"):
        assert name in done.output
