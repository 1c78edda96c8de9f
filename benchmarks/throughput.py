"""Rows: single predictions submitted, polled and finished per second by 16 clients, against both baselines.

Also what bounds them: ONNX Runtime alone.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.load import Measured
from benchmarks.model import INPUT_NAME, SIDE, open_session
from benchmarks.report import Row, rounds_of

CLIENTS = 16
TARGET = 12.0


def measure(bench: Bench) -> list[Row]:
    """Ours, the baseline as first written and the tuned one, with the same pauses."""
    ours, first, tuned = bench.ours, bench.first, bench.tuned
    rounds = rounds_of(
        bench.rounds,
        lambda: bench.load(ours, "poll", CLIENTS),
        lambda: bench.load(first, "poll", CLIENTS),
        lambda: bench.load(tuned, "poll", CLIENTS),
        lambda: _bare(bench, 1),
        lambda: _bare(bench, 64),
    )
    mine, theirs, better = ([found[index] for found in rounds] for index in (0, 1, 2))
    rates = tuple(one.rate for one in mine)
    bare = {rows: tuple(found[index] for found in rounds) for rows, index in ((1, 3), (64, 4))}
    return [
        compare("predictions, polled", mine, theirs, "Celery as first written", target=TARGET),
        compare("predictions, polled", mine, better, "Celery tuned"),
        Row(name="predictions, polled", unit="jobs/s", ours=rates, other=bare[1], against="ONNX Runtime, 1 row a run"),
        Row(name="predictions, polled", unit="jobs/s", ours=rates, other=bare[64], against="ONNX Runtime, 64 rows"),
    ]


def compare(
    name: str, mine: list[Measured], theirs: list[Measured], against: str, *, target: float | None = None
) -> Row:
    """A row of finished jobs per second with what a reader asks next: latencies, polls, CPU."""
    both = [*mine, *theirs]
    causes = sorted({cause for one in both for cause in one.outcome.causes})
    detail = {"ours": _detail(mine), "other": _detail(theirs)}
    return Row(
        name=name,
        unit="jobs/s",
        ours=tuple(one.rate for one in mine),
        other=tuple(one.rate for one in theirs),
        against=against,
        target=target,
        faults=faults(both),
        checked=sum(one.outcome.checked for one in both),
        client_ms=(_client_ms(mine), _client_ms(theirs)),
        note="; ".join(causes) or f"CPU ms a job: ours {_parts(detail['ours'])}; {against} {_parts(detail['other'])}",
        detail=detail,
    )


def faults(measured: list[Measured]) -> int:
    """Wrong answers and errors in all of them; a measurement that checked nothing counts as one."""
    return sum(one.outcome.wrong + one.outcome.errors + (not one.outcome.finished) for one in measured)


def _client_ms(measured: list[Measured]) -> float:
    return statistics.median(1000 * one.outcome.cpu_s / max(one.outcome.finished, 1) for one in measured)


def _parts(detail: dict[str, Any]) -> str:
    return ", ".join(f"{part} {used:.2f}" for part, used in detail["service_cpu_ms_a_job"].items() if used >= 0.005)


def _detail(measured: list[Measured]) -> dict[str, Any]:
    def median(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "p50_ms": median([one.outcome.p50_ms for one in measured]),
        "p99_ms": median([one.outcome.p99_ms for one in measured]),
        "requests_a_job": median([one.outcome.requests / max(one.outcome.finished, 1) for one in measured]),
        "client_cpu_share": median([one.outcome.cpu_s / one.outcome.seconds for one in measured]),
        "service_cpu_ms_a_job": {
            part: median([1000 * one.service_cpu_s.get(part, 0) / max(one.outcome.checked, 1) for one in measured])
            for part in measured[0].service_cpu_s
        },
    }


def _bare(bench: Bench, rows: int) -> float:
    """Rows per second of ONNX Runtime alone, on one thread."""
    session = open_session(bench.model)
    images = np.zeros((rows, SIDE, SIDE), dtype=np.float32)
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < min(1.0, bench.seconds):
        session.run(None, {INPUT_NAME: images})
        runs += 1
    return runs * rows / (time.perf_counter() - started)
