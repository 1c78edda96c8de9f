"""What happened in a fault run, and the judge of it: nothing accepted is lost, nothing ends twice or wrongly.

The history is a file of JSON lines that is only appended to, with monotonic times; the judge reads the records once
all is over and compares them with what was seen meanwhile. Knows no HTTP and no processes.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coatcheck import keys
from coatcheck.audit import audit
from coatcheck.core import Core
from coatcheck.errors import StoreUnavailable
from coatcheck.jobs import Job, Status

#: Words of the history that say a running job lost its worker.
LOSSES = frozenset({"expire_worker", "sweep"})


class History:
    """Append-only events of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a")
        self.kills_ms: list[float] = []

    def add(self, event: str, **fields: Any) -> None:
        """One line: the event, when (monotonic seconds), and what else is known."""
        line = json.dumps({"at": time.monotonic(), "event": event, **fields})
        with self._lock:
            self._file.write(line + "\n")

    def kill(self, what: str, at_ms: float) -> None:
        """A process was killed, at that wall time."""
        self.kills_ms.append(at_ms)
        self.add("kill", what=what, wall_ms=at_ms)

    def close(self) -> list[dict[str, Any]]:
        """End the file; returns its lines."""
        self._file.close()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """An accepted job and what must come of it: a value, or a code it must fail with."""

    id: str
    value: float | None
    code: str = ""
    acked: float = 0.0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """The judge's findings; all lists of job ids are empty in a good run."""

    faults: int = 0
    accepted: int = 0
    #: Accepted and never ended, or their record is gone.
    lost: list[str] = field(default_factory=list)
    #: Jobs beyond one for each key the client used.
    unexpected: int = 0
    #: Ended differently the second time somebody looked, or more ends than jobs were counted.
    doubled: list[str] = field(default_factory=list)
    #: Ended with another answer than the right one.
    wrong: list[str] = field(default_factory=list)
    #: Broken invariants.
    violations: list[str] = field(default_factory=list)
    #: Jobs that lost a worker and succeeded.
    recovered: int = 0
    #: Late reports that were refused, in the store's life.
    fenced: int = 0
    #: Longest time from the accepting answer to the end, seconds.
    max_stall_s: float = 0.0
    #: For each kill that lost jobs: seconds to the first claim of one of them, and to the last (they run singly).
    restarts_s: list[float] = field(default_factory=list)
    last_restarts_s: list[float] = field(default_factory=list)
    #: For each kill that lost jobs: seconds until the last of them could be claimed again.
    claimable_s: list[float] = field(default_factory=list)
    #: Seconds from each kill to the first job that ended after it.
    first_end_s: list[float] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.violations)

    def row(self, name: str) -> str:
        """One line of the table that fault runs print."""
        restarts, ends = sorted(self.restarts_s), sorted(self.first_end_s)
        last = max(self.last_restarts_s, default=0.0)
        words = [f"{name:<32} faults {self.faults:>3}  accepted {self.accepted:>5}  lost {len(self.lost)}"]
        words += [f"doubled {len(self.doubled)}  wrong {len(self.wrong)}"]
        if restarts:
            words += [f"recovered {self.recovered}  restart p50 {_median(restarts)} max {restarts[-1]:.2f} s"]
            words += [f"(claimable {max(self.claimable_s):.2f} s, last of a batch {last:.2f} s)"]
        if ends:
            words += [f"next end p50 {_median(ends)} max {ends[-1]:.2f} s"]
        return "  ".join([*words, f"longest stall {self.max_stall_s:.2f} s"])


class Watcher:
    """Looks at open jobs all the time and remembers how each first ended."""

    def __init__(self, core: Core, history: History) -> None:
        self._core = core
        self._history = history
        self._lock = threading.Lock()
        self._open: dict[str, Expected] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.expected: dict[str, Expected] = {}
        self.seen: dict[str, tuple[str, bytes | None, int | None]] = {}

    def start(self) -> None:
        self._thread.start()

    def accept(self, job: Expected) -> None:
        """The client has read an accepting answer."""
        self._history.add("ack", id=job.id)
        with self._lock:
            self.expected[job.id] = job
            self._open[job.id] = job

    def wait(self, timeout_s: float) -> None:
        """Return when every accepted job has ended, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with self._lock:
                ids = list(self._open)[:2000]
            try:
                jobs = self._core.store.get_many(ids)
            except StoreUnavailable:
                continue
            for job in jobs:
                if job is not None and job.status.terminal:
                    self.seen[job.id] = _end_of(job)
                    self._history.add("final", id=job.id, status=job.status, ended_ms=job.ended_ms)
                    with self._lock:
                        del self._open[job.id]


def judge(core: Core, watcher: Watcher, history: History) -> Verdict:
    """Compare what was promised with what is there."""
    verdict = Verdict(faults=len(history.kills_ms), accepted=len(watcher.expected))
    ended_ms: list[int] = []
    ids, restarts = list(watcher.expected), dict[float, list[tuple[float, float]]]()
    for start in range(0, len(ids), 500):
        for job_id, job in zip(ids[start : start + 500], core.store.get_many(ids[start : start + 500]), strict=True):
            if job is None or not job.status.terminal:
                verdict.lost.append(job_id)
                continue
            if watcher.seen.get(job_id, _end_of(job)) != _end_of(job):
                verdict.doubled.append(job_id)
            if not _right(core, job, watcher.expected[job_id]):
                verdict.wrong.append(f"{job_id} {job.status} {job.code} {job.output!r}")
            ended_ms.append(job.ended_ms or 0)
            _look_at(job, verdict, history.kills_ms, restarts)
    verdict.claimable_s += [max(claimable for claimable, _ in found) for found in restarts.values()]
    verdict.restarts_s += [min(restart for _, restart in found) for found in restarts.values()]
    verdict.last_restarts_s += [max(restart for _, restart in found) for found in restarts.values()]
    verdict.violations += [f"{found.invariant} {found.id} {found.detail}" for found in audit(core.store)]
    verdict.fenced = int(core.store.client.hget(keys.COUNTERS, "fenced") or 0)
    for kill_ms in history.kills_ms:
        after = [end for end in ended_ms if end > kill_ms]
        if after:
            verdict.first_end_s.append((min(after) - kill_ms) / 1000)
    finals = {line["id"]: line["at"] for line in history.close() if line["event"] == "final"}
    verdict.max_stall_s = max((finals[i] - watcher.expected[i].acked for i in finals), default=0.0)
    return verdict


def _look_at(
    job: Job, verdict: Verdict, kills_ms: list[float], restarts: dict[float, list[tuple[float, float]]]
) -> None:
    verdict.attempts[job.attempts] += 1
    lost_a_worker = False
    for line, after in zip(job.history, job.history[1:], strict=False):
        if line.word in LOSSES and after.word == "claim":
            lost_a_worker = True
            before = [kill for kill in kills_ms if kill <= line.at_ms + 1]
            if before:
                kill_ms = max(before)
                seconds = (line.at_ms - kill_ms) / 1000, (after.at_ms - kill_ms) / 1000
                restarts.setdefault(kill_ms, []).append(seconds)
    if lost_a_worker and job.status is Status.SUCCEEDED:
        verdict.recovered += 1


def _right(core: Core, job: Job, expected: Expected) -> bool:
    if expected.code:
        return job.status is Status.FAILED and job.code == expected.code
    output = core.queue.output_of(job)
    if job.status is not Status.SUCCEEDED or output is None:
        return False
    return expected.value is None or abs(json.loads(output)["value"] - expected.value) < 1e-5


def _end_of(job: Job) -> tuple[str, bytes | None, int | None]:
    return str(job.status), job.output, job.ended_ms


def _median(values: list[float]) -> str:
    return f"{values[len(values) // 2]:.2f}"
