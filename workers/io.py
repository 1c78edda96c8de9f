"""The io worker: housekeeping that touches storage, away from the workers that compute.

It removes files that no record names: what runs, refused submits and dead attempts left behind over an hour ago.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import redis
import structlog
from celery import bootsteps
from celery.worker import WorkController

from coatcheck.core import Core, open_core
from coatcheck.errors import Unavailable
from coatcheck.jobs import id_time_ms
from coatcheck.sweeper import Sweeper
from workers.app import app, settings
from workers.leases import HeldLeases
from workers.ticker import Ticker

CLEAN_PERIOD_S = 600.0
LEFT_BEHIND_MS = 3600 * 1000

log = structlog.get_logger()


class IoStep(bootsteps.StartStopStep):
    """Runs the housekeeping beside Celery's own loop."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: WorkController, **options: Any) -> None:
        super().__init__(parent, **options)
        self._core = open_core(settings)
        self._leases = HeldLeases(self._core.store, settings, parent.hostname, dict)
        self._sweeper = Sweeper(self._core.store, self._core.artifacts)
        self._ticker = Ticker(self._core.store, settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._clean_now_and_then, name="clean", daemon=True)

    def start(self, parent: WorkController) -> None:  # noqa: ARG002 - Celery's signature
        """Begin."""
        self._leases.start()
        self._sweeper.start()
        self._ticker.start()
        self._thread.start()

    def stop(self, parent: WorkController) -> None:  # noqa: ARG002 - Celery's signature
        """End."""
        self._stop.set()
        self._ticker.stop()
        self._sweeper.stop()
        self._leases.stop()

    def _clean_now_and_then(self) -> None:
        while not self._stop.wait(CLEAN_PERIOD_S):
            try:
                remove_left_behind(self._core)
            except (Unavailable, redis.RedisError, OSError) as error:
                log.warning("cleaning waits", action="clean", cause=str(error))
            except Exception:
                log.exception("cleaning failed", action="clean")


def remove_left_behind(core: Core) -> list[str]:
    """Delete files that no record names any more; returns their prefixes. Nothing of an open job is touched.

    Under `runs/` that is what never became a version; under `inputs/` and `outputs/` what was written for a job that
    was not accepted, or by an attempt that died before it could report.
    """
    removed = []
    for folder in ("inputs", "outputs", "runs"):
        for job_id in core.artifacts.list(folder):
            if not _forgotten(core, job_id, runs=folder == "runs"):
                continue
            prefixes = [f"{folder}/{job_id}"]
            if folder == "runs":
                prefixes = [f"runs/{job_id}/{fence}" for fence in core.artifacts.list(f"runs/{job_id}")]
            for prefix in prefixes:
                if not core.artifacts.exists(f"{prefix}/manifest.json"):
                    core.artifacts.delete(prefix)
                    removed.append(prefix)
    return removed


def _forgotten(core: Core, job_id: str, *, runs: bool) -> bool:
    """True when no record names its files: none is kept, or (`runs`) it ended long ago without publishing them."""
    now_ms = time.time() * 1000
    made_ms = id_time_ms(job_id)
    if made_ms is None or now_ms - made_ms < LEFT_BEHIND_MS:
        return False  # not ours, or so young that its submit may still be on its way
    job = core.store.get(job_id)
    if job is None:
        return True
    return runs and job.ended_ms is not None and now_ms - job.ended_ms >= LEFT_BEHIND_MS


app.steps["worker"].add(IoStep)
