"""The io worker: housekeeping that touches storage, away from the workers that compute.

It removes what runs left behind: prefixes under `runs/` without a manifest whose job ended over an hour ago.
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
    """Delete run prefixes that never became a version; returns them. A run of an open job is never touched."""
    removed = []
    for job_id in core.artifacts.list("runs"):
        job = core.store.get(job_id)
        now_ms = time.time() * 1000
        if job is not None and (job.ended_ms is None or now_ms - job.ended_ms < LEFT_BEHIND_MS):
            continue
        for fence in core.artifacts.list(f"runs/{job_id}"):
            prefix = f"runs/{job_id}/{fence}"
            if not core.artifacts.exists(f"{prefix}/manifest.json"):
                core.artifacts.delete(prefix)
                removed.append(prefix)
    return removed


app.steps["worker"].add(IoStep)
