"""The io worker: batches (`workers/batch/`), webhooks (`workers/webhooks/`), and housekeeping that touches storage.

It removes files that no record names: what runs, refused submits and dead attempts left behind over an hour ago.
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any, cast

import redis
import structlog
from celery import bootsteps
from celery.worker import WorkController

from coatcheck import keys
from coatcheck.artifacts import MANIFEST
from coatcheck.core import Core, open_core
from coatcheck.errors import FileNotFound, Unavailable
from coatcheck.jobs import Status, id_time_ms
from coatcheck.skipping import Skipping
from coatcheck.sweeper import Sweeper
from coatcheck.unopened import bare_job
from workers.app import app, settings
from workers.batch.conductor import KIND, Conductor
from workers.erasing import ErasingStep
from workers.leases import HeldLeases
from workers.ticker import Ticker
from workers.wake_list import WakeList
from workers.webhooks.step import WebhookStep

CLEAN_PERIOD_S = 600.0
LEFT_BEHIND_MS = 3600 * 1000
#: An upload without a manifest this old is not one that is still coming in.
LONGEST_UPLOAD_MS = 24 * 3600 * 1000

log = structlog.get_logger()


class IoStep(bootsteps.StartStopStep):
    """Runs the housekeeping beside Celery's own loop."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: WorkController, **options: Any) -> None:
        super().__init__(parent, **options)
        self._core = open_core(settings)
        self._conductor = Conductor(self._core, parent.hostname, WakeList(settings, KIND))
        self._leases = HeldLeases(self._core.store, settings, parent.hostname, self._conductor.figures)
        self._sweeper = Sweeper(self._core.store, self._core.artifacts)
        self._ticker = Ticker(self._core.store, settings)
        self._stop = threading.Event()
        self._batches = threading.Thread(target=self._conductor.run, name="conductor")
        self._thread = threading.Thread(target=self._clean_now_and_then, name="clean", daemon=True)

    def start(self, parent: WorkController) -> None:  # noqa: ARG002 - Celery's signature
        """Begin."""
        self._leases.start()
        self._sweeper.start()
        self._ticker.start()
        self._thread.start()
        self._batches.start()

    def stop(self, parent: WorkController) -> None:  # noqa: ARG002 - Celery's signature
        """Hand back the batches that are held, and end."""
        self._stop.set()
        self._conductor.stop()
        self._batches.join()
        self._ticker.stop()
        self._sweeper.stop()
        self._leases.stop()

    def _clean_now_and_then(self) -> None:
        while not self._stop.wait(CLEAN_PERIOD_S):
            for step in (self._remove_expired, lambda: remove_left_behind(self._core)):
                try:
                    step()
                except (Unavailable, redis.RedisError, OSError) as error:
                    log.warning("cleaning waits", action="clean", cause=str(error))
                except Exception:
                    log.exception("cleaning failed", action="clean")

    def _remove_expired(self) -> None:
        while self._core.files.remove_expired() and not self._stop.is_set():
            pass


def remove_left_behind(core: Core) -> list[str]:
    """Delete files that no record names any more; returns their prefixes. Nothing of an open job is touched.

    Under `runs/` that is what never became a version; under `inputs/` and `outputs/` what was written for a job that
    was not accepted, or by an attempt that died before it could report; under `files/` uploads without a record; under
    `batches/` plans and parts of batches that have ended: their files are whole, or will never be.
    What has a manifest goes only when this Redis knows that it should: one that lost its data knows nothing, and
    the manifests are what its records can be made from again.
    """
    removed: list[str] = []
    for find in (_unaccepted_values, _unpublished_runs, _unrecorded_files, _ended_batches):
        skipping = Skipping("clean")
        try:
            for prefix in find(core, skipping):
                with skipping.one(prefix):
                    core.artifacts.delete(prefix)
                    removed.append(prefix)
        except OSError as error:  # of many in a row: the other folders may do
            log.warning("cleaning waits", action="clean", finder=find.__name__, cause=str(error))
    _forget_uploads(core)
    core.artifacts.clear_rotating(older_than_s=LEFT_BEHIND_MS / 1000)
    return removed


def _unaccepted_values(core: Core, _: Skipping) -> list[str]:
    return [
        f"{folder}/{job_id}"
        for folder in ("inputs", "outputs")
        for job_id in core.artifacts.list(folder)
        if _older_than(job_id, LEFT_BEHIND_MS) and not core.store.client.exists(keys.job(job_id))
    ]


def _unpublished_runs(core: Core, skipping: Skipping) -> list[str]:
    found = []
    for job_id in core.artifacts.list("runs"):
        if _older_than(job_id, LEFT_BEHIND_MS):
            with skipping.one(f"runs/{job_id}"):
                found += _unpublished(core, job_id)
    return found


def _unpublished(core: Core, job_id: str) -> list[str]:
    job, tomb = bare_job(core.store.client, job_id), core.store.tombstone(job_id)
    ended_ms = job.ended_ms if job is not None else tomb[1] if tomb is not None else None
    if job is not None and (ended_ms is None or _now_ms() - ended_ms < LEFT_BEHIND_MS):
        return []
    kept = job is not None and job.status in (Status.CANCELED, Status.FAILED)
    found = []
    for fence in core.artifacts.list(f"runs/{job_id}"):
        prefix = f"runs/{job_id}/{fence}"
        if fence == "checkpoints" and kept:
            continue  # another training may go on from it
        whole = core.artifacts.exists(f"{prefix}/{MANIFEST}")
        if not whole or (ended_ms is not None and not _is_version(core, prefix)):
            found.append(prefix)
    return found


def _ended_batches(core: Core, _: Skipping) -> list[str]:
    found = []
    for job_id in core.artifacts.list("batches"):
        if _older_than(job_id, LEFT_BEHIND_MS):
            job = bare_job(core.store.client, job_id)
            if job is None or (job.ended_ms is not None and _now_ms() - job.ended_ms >= LEFT_BEHIND_MS):
                found.append(f"batches/{job_id}")
    return found


def _is_version(core: Core, prefix: str) -> bool:
    """True when a registered version lies there: its id is the digest of its manifest."""
    version_id = hashlib.sha256(core.artifacts.read_bytes(f"{prefix}/{MANIFEST}")).hexdigest()
    return core.store.client.hget(keys.version(version_id), "prefix") == prefix.encode()


def _unrecorded_files(core: Core, skipping: Skipping) -> list[str]:
    old = [file_id for file_id in core.artifacts.list("files") if _older_than(file_id, LEFT_BEHIND_MS)]
    pipeline = core.store.client.pipeline(transaction=False)
    for file_id in old:
        pipeline.exists(keys.file(file_id))
    found = []
    for file_id, named in zip(old, pipeline.execute(), strict=True):
        with skipping.one(f"files/{file_id}"):
            if not named and _refused_upload(core, file_id):
                found.append(f"files/{file_id}")
    return found


def _refused_upload(core: Core, file_id: str) -> bool:
    """True when the file's record is missing because it was refused or deleted, not because Redis lost it."""
    client = core.store.client
    try:
        account = str(core.artifacts.manifest(f"files/{file_id}")["account"])
    except FileNotFound:
        return _older_than(file_id, LONGEST_UPLOAD_MS) or _cut_off(core, file_id)
    if client.hexists(keys.GATES, f"{keys.LEFT}{account}"):
        return True
    created = cast(bytes | None, client.hget(keys.account(account), "created"))
    made_ms = id_time_ms(file_id)
    return created is not None and made_ms is not None and int(created) <= made_ms


def _cut_off(core: Core, file_id: str) -> bool:
    """True for an upload that wrote nothing for an hour. Only a local disk tells; a job's output may be slower."""
    begun = cast(bytes | None, core.store.client.hget(keys.UPLOADING, file_id))
    if begun is None or b" " in begun or core.artifacts.free_bytes() is None:
        return False
    return core.artifacts.settled(f"files/{file_id}/content", LEFT_BEHIND_MS / 1000)


def _forget_uploads(core: Core) -> None:
    """Notes of uploads that cannot be coming in any more."""
    begun = [file_id for file_id, _ in core.store.client.hscan_iter(keys.UPLOADING)]
    over = [file_id for file_id in begun if _older_than(file_id.decode(), LONGEST_UPLOAD_MS)]
    if over:
        core.store.client.hdel(keys.UPLOADING, *over)


def _older_than(made_id: str, age_ms: float) -> bool:
    """False too for what is no id of ours; a young one's request may still be on its way."""
    made_ms = id_time_ms(made_id)
    return made_ms is not None and _now_ms() - made_ms >= age_ms


def _now_ms() -> float:
    return time.time() * 1000


app.steps["worker"].update((IoStep, WebhookStep, ErasingStep))
