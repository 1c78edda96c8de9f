"""Row: how long one client with `Prefer: wait` waits, against the same Flask app with no queue at all."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.report import Row, rounds_of
from benchmarks.throughput import faults

TARGET = 2.5


def measure(bench: Bench) -> list[Row]:
    """The median wait, judged; the 99th percentile beside it."""
    ours, direct = bench.ours, bench.direct
    rounds = rounds_of(
        bench.rounds,
        lambda: bench.load(ours, "wait", 1),
        lambda: bench.load(direct, "wait", 1),
    )
    mine, theirs = ([found[index] for found in rounds] for index in (0, 1))
    both = [*mine, *theirs]
    return [
        Row(
            name="one client, Prefer: wait, p50",
            unit="ms",
            ours=tuple(one.outcome.p50_ms for one in mine),
            other=tuple(one.outcome.p50_ms for one in theirs),
            against="Flask, no queue",
            target=TARGET,
            direction="at most",
            faults=faults(both),
            checked=sum(one.outcome.checked for one in both),
        ),
        Row(
            name="one client, Prefer: wait, p99",
            unit="ms",
            ours=tuple(one.outcome.p99_ms for one in mine),
            other=tuple(one.outcome.p99_ms for one in theirs),
            against="Flask, no queue",
        ),
    ]
