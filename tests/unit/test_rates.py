"""Rates between two samples."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.observe.rates import rates

PORT = {"rx_packets": 100, "rx_bytes": 6400, "tx_packets": 10, "tx_bytes": 640, "rx_dropped": 0, "tx_dropped": 0}
WORKER = {
    "index": 0, "cpu": 1, "turns": 10, "busy_turns": 5, "busy_cycles": 1000, "total_cycles": 2000, "packets": 100,
    "bursts": 10, "sleeps": 3, "turn_cycles": [0, 2, 1, 0], "cycles_hz": 1000,
    "stage_cycles": {"rx": 100, "tx": 200}, "stage_packets": 50,
}  # fmt: skip


def sample(time: float, factor: int = 1, **changes: Any) -> dict[str, Any]:
    def scaled(values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: scaled(value)
            if isinstance(value, dict)
            else [each * factor for each in value]
            if isinstance(value, list)
            else value
            if key in ("index", "cpu", "cycles_hz")
            else value * factor
            for key, value in values.items()
        }

    return {
        "time": time,
        "ports": {"a": scaled(PORT)},
        "drops": {"a": {"runt": 4 * factor}},
        "workers": [scaled(WORKER)],
        **changes,
    }


def test_rates_of_a_port() -> None:
    (port,) = rates(sample(10.0), sample(12.0, 3)).ports
    assert (port.rx_pps, port.rx_bps, port.tx_pps, port.tx_bps, port.drops_ps) == (100, 51200, 10, 5120, 4)


def test_rates_of_a_worker() -> None:
    (worker,) = rates(sample(10.0), sample(12.0, 3)).workers
    assert worker.load == pytest.approx(0.5)
    assert worker.pps == 100
    assert worker.cycles_per_packet == pytest.approx(10.0)
    assert worker.mean_burst == pytest.approx(10.0)
    assert worker.stages == {"rx": pytest.approx(2.0), "tx": pytest.approx(4.0)}
    assert worker.sleeps_ps == 3
    assert worker.longest_turn == pytest.approx(8 / 1000)


def test_nothing_passed() -> None:
    (worker,) = rates(sample(1.0), sample(2.0)).workers
    assert (worker.load, worker.cycles_per_packet, worker.mean_burst) == (0.0, None, None)
    assert worker.stages == {"rx": None, "tx": None}
    assert worker.longest_turn is None


def test_the_longest_turn_is_that_between_the_samples() -> None:
    before, after = sample(1.0), sample(2.0)
    after["workers"][0]["turn_cycles"] = [5, 2, 1, 0]
    (worker,) = rates(before, after).workers
    assert worker.longest_turn == pytest.approx(2 / 1000)


def test_a_restarted_engine_counts_from_zero() -> None:
    found = rates(sample(1.0, 5), sample(2.0, 1))
    assert found.ports[0].rx_pps == 100
    assert found.workers[0].pps == 100


def test_a_port_that_is_new() -> None:
    found = rates(sample(1.0, ports={}, drops={}), sample(2.0))
    assert (found.ports[0].rx_pps, found.ports[0].drops_ps) == (100, 4)
