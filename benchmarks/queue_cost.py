"""Rows: what the queue itself costs, under submit-only load.

Does a backlog grow, and how much of what the web tier could accept alone is left when the worker runs too.
The second is also the ceiling of everything above it: durable submits per second.
"""

from __future__ import annotations

import threading
import time

from benchmarks.bench import Bench
from benchmarks.load import Measured, apply_load
from benchmarks.ours import OurService
from benchmarks.report import Row, rounds_of
from benchmarks.throughput import faults

CLIENTS = 16
FINISHED_TARGET = 0.95
ACCEPTED_TARGET = 0.7
#: The supervisor takes a worker that is stopped for longer than its watchdog for dead.
_MOST_STOPPED_S = 6.0


def measure(bench: Bench) -> list[Row]:
    """Submit-only with the worker running, then stopped, in turn; every sampled job is read back and checked."""
    ours = bench.ours
    rounds = rounds_of(bench.rounds, lambda: _running(bench, ours), lambda: _stopped(bench, ours))
    running, stopped = ([found[index] for found in rounds] for index in (0, 1))
    loads = [load for load, _ in running]
    polled = [bench.load(ours, "poll", CLIENTS) for _ in range(bench.rounds)]
    both = [*loads, *stopped]
    checked = sum(one.outcome.checked for one in both)
    ceiling = tuple(one.rate for one in stopped)
    return [
        Row(
            name=f"submit only, {bench.submit_seconds:g} s: finished of accepted",
            unit="jobs/s",
            ours=tuple(finished for _, finished in running),
            other=tuple(one.rate for one in loads),
            against="accepted in the same run",
            target=FINISHED_TARGET,
            faults=faults(both),
            checked=checked,
        ),
        Row(
            name="submit only: accepted",
            unit="jobs/s",
            ours=tuple(one.rate for one in loads),
            other=ceiling,
            against="worker stopped",
            target=ACCEPTED_TARGET,
            faults=faults(both),
            checked=checked,
            detail={
                "p50_ms_running": [one.outcome.p50_ms for one in loads],
                "p50_ms_stopped": [one.outcome.p50_ms for one in stopped],
                "client_cpu_s": [one.outcome.cpu_s for one in both],
            },
        ),
        Row(
            name="predictions, polled",
            unit="jobs/s",
            ours=tuple(one.rate for one in polled),
            other=ceiling,
            against="durable submits of our web tier",
            faults=faults(polled),
            checked=sum(one.outcome.checked for one in polled),
        ),
    ]


def _running(bench: Bench, ours: OurService) -> tuple[Measured, float]:
    """The load, and how many jobs a second had ended when its window closed."""
    bench.say("submit only, worker running")
    ours.wait_drained()
    watch = _Counts(ours)
    load = apply_load(ours, bench.examples, mode="submit", clients=CLIENTS, seconds=bench.submit_seconds, warmup_s=1.0)
    return load, watch.ended_between(load.outcome.started_at, load.outcome.started_at + load.outcome.seconds)


def _stopped(bench: Bench, ours: OurService) -> Measured:
    """The same with no worker; its jobs are worked off before this returns."""
    bench.say("submit only, worker stopped")
    ours.wait_drained()
    seconds = min(bench.submit_seconds, _MOST_STOPPED_S)
    with ours.predict_workers_stopped():
        load = apply_load(
            ours, bench.examples, mode="submit", clients=CLIENTS, seconds=seconds, warmup_s=0.5, settle_s=0.0
        )
    ours.wait_drained()
    return load


class _Counts:
    """Reads the counter of ended jobs ten times a second, with times of the monotonic clock."""

    def __init__(self, ours: OurService) -> None:
        self._ours = ours
        self._seen: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def ended_between(self, start: float, end: float) -> float:
        """Jobs ended per second between two moments; stops the reading."""
        self._stop.set()
        self._thread.join()
        return (self._at(end) - self._at(start)) / (end - start)

    def _at(self, moment: float) -> float:
        before = max((one for one in self._seen if one[0] <= moment), default=self._seen[0])
        after = min((one for one in self._seen if one[0] > moment), default=self._seen[-1])
        share = (moment - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
        return before[1] + share * (after[1] - before[1])

    def _read(self) -> None:
        while not self._stop.wait(0.1):
            ended = self._ours.counts()[1]
            self._seen.append((time.monotonic(), ended))
