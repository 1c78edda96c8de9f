"""A Redis that forgets its scripts, and one that does not answer for a while."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from faults.runs import assert_clean, under_load
from faults.service import Service, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

STOPPED_S = 4.0
ANSWER_S = 1.5
#: What the client's own clock and a busy machine add.
SLACK_S = 0.3


def threads_of(service: Service) -> dict[str, int]:
    """Threads of web's and the workers' processes."""
    found = {}
    for pid, (_, line) in service.tree().items():
        if "valkey-server" in line:
            continue
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        found[f"{pid}"] = int(status.partition("Threads:")[2].split()[0])
    return found


def test_scripts_flushed_again_and_again_do_no_harm(bench, cycles, tmp_path, report):
    stop = threading.Event()
    flushed = []

    def flush() -> None:
        while not stop.wait(0.02):
            bench.service.core.store.client.script_flush()
            flushed.append(1)

    with under_load(bench, tmp_path) as run:
        flusher = threading.Thread(target=flush)
        flusher.start()
        time.sleep(2.0 * cycles)
        stop.set()
        flusher.join(10)
    report(run.verdict.row(f"SCRIPT FLUSH, {len(flushed)} times"))
    assert_clean(run)
    assert run.load.answers.keys() <= {200, 201, 202}
    assert dict(run.verdict.attempts) == {1: run.verdict.accepted}


def test_frozen_redis_is_answered_with_503_in_time_and_piles_up_no_threads(bench, cycles, tmp_path, report, slack):
    service = bench.service
    (server,) = service.find("valkey-server")
    before = threads_of(service)
    took: list[float] = []
    most = 0
    with under_load(bench, tmp_path, rate=100.0) as run:
        for _ in range(cycles):
            first = len(run.load.took_s)
            run.history.kill("freeze redis", service.send(server, signal.SIGSTOP))
            deadline = time.monotonic() + STOPPED_S
            while time.monotonic() < deadline:
                now = threads_of(service)
                most = max(most, *(now[pid] - before.get(pid, 0) for pid in now if pid in before))
                time.sleep(0.1)
            took += run.load.took_s[first:]
            service.send(server, signal.SIGCONT)
            run.wait_for_more_results(20)
    statuses = dict(run.load.answers)
    took.sort()
    nearly_all, slowest = took[len(took) * 99 // 100], took[-1]
    report(
        run.verdict.row("Redis frozen for 4 s")
        + f"  answered in {nearly_all:.2f} s (99 %), {slowest:.2f} s (all), {statuses}"
    )
    assert_clean(run)
    assert statuses.get(503, 0) > 0
    assert set(statuses) <= {200, 201, 202, 503}
    assert nearly_all <= (ANSWER_S + SLACK_S) * slack
    assert slowest <= 2 * ANSWER_S * slack  # a request that came while another one waited may wait as long again
    assert most <= 4, f"{most} more threads in one process"
    until(lambda: service.find("-n predict@") != [], 5, "the workers still live")
