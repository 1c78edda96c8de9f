"""`/metrics` of the whole service in Prometheus' text: queues and counters from Redis, figures of every live process.

Each process tells its figures every few seconds (`coatcheck/liveness.py`); whichever web process is asked adds
them up. No label names an account, a model or a job: the page needs no key.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import redis
import structlog
from flask import Blueprint, Response, current_app

from coatcheck import keys, liveness
from coatcheck.core import Core
from coatcheck.keys_in_use import told_keys
from web.requests import core, off_loop

routes = Blueprint("metrics", __name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper ends of the latency buckets, seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0)
#: Figures of processes that are words, and those that are counts by a fixed word (how jobs ended).
WORDS = ("provider", "spare")
COUNTS = ("jobs", "ended")
QUEUE_KINDS = ("predict", "bulk", "train", "io")

log = structlog.get_logger(__name__)


class Waits(Protocol):
    """What is told of the waiting requests."""

    open_waits: int


class HttpStats:
    """Requests of this process by route and status, and how long they took."""

    def __init__(self) -> None:
        self.name = f"web@{socket.gethostname()}-{os.getpid()}"
        self.waits: Waits | None = None
        #: The task that tells the figures; kept so that it is not collected.
        self.reporting: asyncio.Task[None] | None = None
        self._counts: dict[tuple[str, int], int] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        place = (route, status)
        self._counts[place] = self._counts.get(place, 0) + 1
        self._seconds += seconds
        for number, end in enumerate(BUCKETS):
            if seconds <= end:
                self._buckets[number] += 1
                return
        self._buckets[-1] += 1

    def figures(self) -> dict[str, Any]:
        """As it is told to the others."""
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "resident_bytes": resident,
            "waits": self.waits.open_waits if self.waits is not None else 0,
            "http": [[route, status, count] for (route, status), count in self._counts.items()],
            "latency": self._buckets,
            "latency_sum": self._seconds,
        }


def report_always(loop: asyncio.AbstractEventLoop, app_core: Core, stats: HttpStats, waits: Waits) -> None:
    """Begin to tell this process's figures, until the loop ends."""
    stats.waits = waits
    stats.reporting = loop.create_task(_report(app_core, stats))


async def _report(app_core: Core, stats: HttpStats) -> None:
    loop, has = asyncio.get_running_loop(), told_keys(app_core.artifacts.keyring)
    while True:
        try:
            figures = stats.figures() | has
            await loop.run_in_executor(None, liveness.report, app_core.store.client, stats.name, figures)
        except redis.exceptions.RedisError as error:
            log.debug("figures are not told now", action="report", error=str(error))
        await asyncio.sleep(liveness.REPORT_PERIOD_S)


@routes.get("/metrics")
@off_loop
def metrics() -> Response:
    """Prometheus' text."""
    app_core, stats = core(), cast(HttpStats, current_app.extensions["stats"])
    lines = [*_queue_lines(app_core), *_process_lines(app_core, stats)]
    return Response("\n".join(lines) + "\n", content_type=CONTENT_TYPE)


def _queue_lines(app_core: Core) -> Iterator[str]:
    """Depths and counters that lie in Redis."""
    client = app_core.store.client
    try:
        yield from _read_queues(client)
        up = 1
    except redis.exceptions.RedisError:
        up = 0
    yield from ("# TYPE coatcheck_redis_up gauge", f"coatcheck_redis_up {up}")


def _read_queues(client: redis.Redis) -> list[str]:
    pipeline = client.pipeline(transaction=False)
    for name in (keys.LEASES, keys.DELAYED, keys.DONE, keys.OUTBOX):
        pipeline.zcard(name)
    pipeline.hgetall(keys.COUNTERS)
    for kind in QUEUE_KINDS:
        pipeline.zrange(keys.busy(kind), 0, -1, withscores=True)
    pipeline.time()
    leases, delayed, kept, outbox, counters, *rest = pipeline.execute()
    busy, (seconds, micros) = rest[:-1], rest[-1]
    now_ms = seconds * 1000 + micros // 1000
    lines = ["# TYPE coatcheck_jobs gauge"]
    for state, count in (("running", leases), ("delayed", delayed), ("finished_kept", kept)):
        lines.append(f'coatcheck_jobs{{state="{state}"}} {count}')
    lines += ["# TYPE coatcheck_outbox gauge", f"coatcheck_outbox {outbox}", "# TYPE coatcheck_queue_depth gauge"]
    for kind, queues in zip(QUEUE_KINDS, busy, strict=True):
        lines.append(f'coatcheck_queue_depth{{kind="{kind}"}} {_depth(client, [name for name, _ in queues])}')
    lines.append("# TYPE coatcheck_queue_oldest_seconds gauge")
    for kind, queues in zip(QUEUE_KINDS, busy, strict=True):
        oldest = max((now_ms - score for _, score in queues), default=0)
        lines.append(f'coatcheck_queue_oldest_seconds{{kind="{kind}"}} {max(0, oldest) / 1000:g}')
    lines.append("# TYPE coatcheck_events_total counter")
    for name, count in sorted(counters.items()):
        lines.append(f'coatcheck_events_total{{event="{name.decode()}"}} {int(count)}')
    return lines


def _depth(client: redis.Redis, queues: list[bytes]) -> int:
    pipeline = client.pipeline(transaction=False)
    for name in queues:
        pipeline.zcard(keys.ready(name.decode()))
        pipeline.zcard(keys.solo(name.decode()))
    return sum(pipeline.execute()) if queues else 0


def _process_lines(app_core: Core, stats: HttpStats) -> Iterator[str]:
    try:
        processes = {process.name: process.figures for process in liveness.live(app_core.store.client)}
    except redis.exceptions.RedisError:
        processes = {}
    processes[stats.name] = stats.figures()
    yield "# TYPE coatcheck_process_up gauge"
    for name, figures in sorted(processes.items()):
        labels = f'kind="{_label(name.partition("@")[0])}",process="{_label(name)}"'
        yield f"coatcheck_process_up{{{labels}}} 1"
        if "http" in figures:
            yield from _http_lines(labels, figures)
        for key, value in figures.items():
            if key not in ("http", "latency", "latency_sum"):
                yield from _figure_lines(labels, key, value)


def _http_lines(labels: str, figures: dict[str, Any]) -> Iterator[str]:
    for route, status, count in figures["http"]:
        yield f'coatcheck_http_requests_total{{{labels},route="{_label(route)}",status="{status}"}} {count}'
    total = 0
    for end, count in zip((*BUCKETS, "+Inf"), figures["latency"], strict=True):
        total += count
        yield f'coatcheck_http_seconds_bucket{{{labels},le="{end}"}} {total}'
    yield f"coatcheck_http_seconds_sum{{{labels}}} {figures['latency_sum']:.6f}"
    yield f"coatcheck_http_seconds_count{{{labels}}} {total}"


def _figure_lines(labels: str, key: str, value: Any) -> Iterator[str]:
    # What a process tells may name versions and jobs; here they are only counted.
    if key == "sessions" and isinstance(value, dict):
        yield f"coatcheck_process_sessions{{{labels}}} {len(value)}"
        yield f"coatcheck_process_sessions_bytes{{{labels}}} {sum(value.values()):g}"
    elif key == "job":
        yield f"coatcheck_process_busy{{{labels}}} {int(bool(value))}"
    elif isinstance(value, bool | int | float):
        yield f"coatcheck_process_{key}{{{labels}}} {float(value):g}"
    elif key in WORDS and isinstance(value, str):
        yield f'coatcheck_process_info{{{labels},{key}="{_label(value)}"}} 1'
    elif key in COUNTS and isinstance(value, dict):
        for item, number in value.items():
            yield f'coatcheck_process_{key}{{{labels},item="{_label(str(item))}"}} {float(number):g}'


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
