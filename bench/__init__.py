"""Benchmarks: ``cycles`` (the data plane alone) and ``peers`` (beside others). Results are in docs/performance.md."""
