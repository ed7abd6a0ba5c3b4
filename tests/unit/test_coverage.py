"""Rates of events from samples of their totals."""

from __future__ import annotations

from penstock.ovsdb.appctl.coverage import Row, rows_of


def test_rates_are_over_the_time_that_passed() -> None:
    samples = [
        (0.0, {"a": 0, "b": 0}),
        (3500.0, {"a": 100, "b": 0}),
        (3550.0, {"a": 150, "b": 0}),
        (3596.0, {"a": 160}),
    ]
    (row,) = rows_of(samples, (3600.0, {"a": 172, "b": 0}))
    # Five seconds ago lies between samples: the one before it counts, 50 s ago; a minute ago the one of 100 s ago.
    assert row == Row("a", (22 / 50, 72 / 100, 172 / 3600), 172)


def test_what_is_not_known_for_so_long_is_over_the_time_that_it_is() -> None:
    assert rows_of([(8.0, {"a": 4})], (10.0, {"a": 10})) == [Row("a", (3.0, 3.0, 3.0), 10)]
    assert rows_of([], (10.0, {"a": 10})) == [Row("a", (0.0, 0.0, 0.0), 10)]


def test_an_engine_that_began_anew_counts_from_nothing() -> None:
    assert rows_of([(0.0, {"a": 50}), (5.0, {"a": 2})], (10.0, {"a": 12})) == [Row("a", (2.0, 1.2, 1.2), 12)]
