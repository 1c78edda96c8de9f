"""Row: predictions by `Prefer: wait` from 64 clients, against the same Flask app with no queue at all."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.report import Row, rounds_of
from benchmarks.throughput import compare

CLIENTS = 64
TARGET = 0.5


def measure(bench: Bench) -> list[Row]:
    """Ours and the ceiling in turn."""
    ours, direct = bench.ours, bench.direct
    rounds = rounds_of(
        bench.rounds,
        lambda: bench.load(ours, "wait", CLIENTS),
        lambda: bench.load(direct, "wait", CLIENTS),
    )
    mine, theirs = ([found[index] for found in rounds] for index in (0, 1))
    return [compare("predictions, Prefer: wait, 64 clients", mine, theirs, "Flask, no queue", target=TARGET)]
