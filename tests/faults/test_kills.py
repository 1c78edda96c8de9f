"""kill -9 of each part under load: no accepted job is lost, none ends twice, and work goes on at once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.history import History, Verdict, Watcher, judge
from faults.load import Load, Submission
from faults.service import Service, reads, running_service, until, wall_ms
from tiny_versions import lookup, publish, slow

from coatcheck.jobs import Status

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

#: One prediction in so many runs this long: a kill then hits the inside of a batch.
SLOW_EVERY, SLOW_S = 8, 0.1


@dataclass
class Bench:
    """A service with two versions, fast and slow."""

    service: Service
    fast: str
    slow: str

    def make(self, number: int) -> Submission:
        if number % SLOW_EVERY == 0:
            return Submission(version=self.slow, given={"x": SLOW_S}, value=SLOW_S)
        return Submission(version=self.fast, given={"x": number % 100}, value=10.0 * (number % 100))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_service(tmp_path_factory.mktemp("kills") / "home") as service:
        yield Bench(
            service=service,
            fast=publish(service.core, lookup(), "fast"),
            slow=publish(service.core, slow(), "slow"),
        )


@dataclass
class Run:
    """One load run; `verdict` is set when it is over."""

    history: History
    watcher: Watcher
    load: Load
    verdict: Verdict

    def wait_for_more_results(self, count: int) -> None:
        wanted = len(self.watcher.seen) + count
        until(lambda: len(self.watcher.seen) >= wanted, 20, "more results")

    def wait_for_more_accepted(self, count: int) -> None:
        wanted = len(self.watcher.expected) + count
        until(lambda: len(self.watcher.expected) >= wanted, 20, "more accepted jobs")


@contextmanager
def under_load(bench: Bench, folder: Path, rate: float = 60.0) -> Iterator[Run]:
    history = History(folder / "history.jsonl")
    watcher = Watcher(bench.service.core, history)
    load = Load(bench.service, watcher, history, bench.make, rate=rate)
    run = Run(history=history, watcher=watcher, load=load, verdict=Verdict())
    watcher.start()
    load.start()
    try:
        until(lambda: len(watcher.seen) > 20, 30, "the load's first results")
        yield run
    finally:
        load.stop()
    watcher.wait(60)
    run.verdict = judge(bench.service.core, watcher, history)


def assert_clean(run: Run) -> None:
    verdict = run.verdict
    assert (verdict.lost, verdict.doubled, verdict.wrong, verdict.violations) == ([], [], [], [])
    assert run.load.given_up == 0
    assert verdict.accepted > 0


def running_batch(bench: Bench, run: Run) -> int:
    """Pid of a predict worker that is inside a batch with a slow prediction."""
    found: list[int] = []

    def inside() -> bool:
        for job_id in list(run.watcher._open)[-50:]:
            job = reads(bench.service, job_id)
            if job and job.status is Status.RUNNING and job.version == bench.slow:
                found.append(int(job.worker.rpartition("/")[2]))
                return True
        return False

    until(inside, 20, "a batch that runs")
    return found[-1]


def test_predict_worker_killed_inside_a_batch(bench, cycles, tmp_path, report):
    service = bench.service
    with under_load(bench, tmp_path) as run:
        for _ in range(cycles):
            service.wait_for_workers("predict", 2)
            time.sleep(random.uniform(0.0, 0.3))
            run.history.kill("predict", service.send(running_batch(bench, run), signal.SIGKILL))
    report(run.verdict.row("predict worker, in a batch"))
    assert_clean(run)
    assert run.verdict.recovered >= 1
    assert len(run.verdict.first_end_s) == cycles
    assert max(run.verdict.attempts) <= 2
    assert max(run.verdict.restarts_s) <= 1.5


def test_redis_killed(bench, cycles, tmp_path, report):
    service = bench.service
    with under_load(bench, tmp_path) as run:
        for _ in range(cycles):
            time.sleep(random.uniform(0.5, 1.5))
            (server,) = service.find("valkey-server")
            run.history.kill("redis", service.send(server, signal.SIGKILL))
            run.wait_for_more_results(5)
    report(run.verdict.row("Redis"))
    assert_clean(run)
    assert len(run.verdict.first_end_s) == cycles
    assert max(run.verdict.first_end_s) <= 5.0
    assert service.find("-n predict@") != []


def web_main(service: Service) -> int:
    return min(service.find("-m granian"))


def test_one_web_worker_killed(bench, cycles, tmp_path, report):
    service = bench.service
    with under_load(bench, tmp_path) as run:
        for _ in range(cycles):
            until(lambda: len(service.children_of(web_main(service))) >= 1, 20, "a web worker")
            victim = random.choice(service.children_of(web_main(service)))
            run.history.kill("web worker", service.send(victim, signal.SIGKILL))
            run.wait_for_more_accepted(10)
            time.sleep(random.uniform(0.5, 1.5))
    report(run.verdict.row("one web worker"))
    assert_clean(run)


def test_web_killed(bench, cycles, tmp_path, report):
    service = bench.service
    gaps = []
    with under_load(bench, tmp_path) as run:
        for _ in range(cycles):
            time.sleep(random.uniform(0.5, 1.0))
            run.history.kill("web", service.send(web_main(service), signal.SIGKILL))
            began = wall_ms()
            run.wait_for_more_accepted(10)
            gaps.append((wall_ms() - began) / 1000)
            until(lambda: len(service.children_of(web_main(service))) >= 1, 20, "web's workers")
    report(run.verdict.row("web, all of it") + f"  accepts again max {max(gaps):.2f} s")
    assert_clean(run)
