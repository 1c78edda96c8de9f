"""Heartbeats of one claimed training, on a thread: carries progress in and cancel out, and fences itself.

When no heartbeat succeeded for nearly a lease, somebody else may hold the job: `lost` is set and `fence` called,
by the monotonic clock. Knows no training process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from coatcheck.claims import Beat, BeatAnswer, Claimed, Event
from coatcheck.errors import CoatcheckError, Unavailable
from coatcheck.settings import Settings
from coatcheck.store import JobStore

#: Events kept for the next heartbeat; older ones are dropped first, as the job's stream would.
MOST_EVENTS = 1000
#: Fenced so long before the lease ends.
MARGIN_S = 2.0

log = structlog.get_logger()


class Heart:
    """Beats from `start` to `stop`.

    Args:
        fence: called once, from this thread, when the lease is lost or may be.
    """

    def __init__(self, store: JobStore, settings: Settings, job: Claimed, fence: Callable[[], None]) -> None:
        self._store = store
        self._job = job
        self._fence = fence
        self._period_s = settings.train_heartbeat_s
        self._lease_s = settings.train_lease_s
        self._patience_s = max(self._lease_s / 2, self._lease_s - MARGIN_S)
        self._last_answer = time.monotonic()
        self._events: list[Event] = []
        self._progress = ""
        self._checkpoint = ""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self.cancel = threading.Event()
        #: Set when the job is, or may be, somebody else's.
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._watch = threading.Thread(target=self._guard, name="heart-guard", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()
        self._watch.start()

    def stop(self) -> None:
        """End. A beat under way is waited for, so that it cannot overtake what is reported next."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10)
        if self._checkpoint and not self.lost.is_set():  # the next attempt starts from it
            with contextlib.suppress(CoatcheckError):
                self._beat(time.monotonic())

    def event(self, name: str, data: str) -> None:
        """Send an event with the next beat."""
        with self._lock:
            self._events.append(Event(name=name, data=data))
            del self._events[:-MOST_EVENTS]

    def progress(self, told: dict[str, Any]) -> None:
        """Replace the progress the next beat carries."""
        with self._lock:
            self._progress = msgspec.json.encode(told).decode()

    def checkpoint(self, prefix: str) -> None:
        """Point the job at a checkpoint with the next beat, which follows at once."""
        with self._lock:
            self._checkpoint = prefix
        self._wake.set()

    def rest(self) -> tuple[Event, ...]:
        """Events that no beat has carried; call it after `stop`."""
        with self._lock:
            return tuple(self._events)

    def _run(self) -> None:
        while not self._stopping and not self.lost.is_set():
            began = time.monotonic()
            try:
                self._beat(began)
            except Unavailable as error:
                log.warning("heartbeat waits for Redis", action="heartbeat", job_id=self._job.id, cause=str(error))
            except Exception:
                log.exception("heartbeat failed", action="heartbeat", job_id=self._job.id)
            self._wake.wait(max(0.0, self._period_s - (time.monotonic() - began)))
            self._wake.clear()

    def _beat(self, began: float) -> None:
        with self._lock:
            events, progress, checkpoint = self._events, self._progress, self._checkpoint
            self._events = []
        if progress:
            events = [*events, Event(name="progress", data=progress)]
        beat = Beat(
            id=self._job.id,
            token=self._job.token,
            progress=progress,
            checkpoint=checkpoint,
            events=tuple(events),
        )
        try:
            (answer,) = self._store.heartbeat([beat], int(self._lease_s * 1000))
        except BaseException:
            with self._lock:
                self._events = [event for event in events if event.name != "progress"] + self._events
            raise
        self._last_answer = began
        with self._lock:
            self._progress = "" if self._progress == progress else self._progress
            self._checkpoint = "" if self._checkpoint == checkpoint else self._checkpoint
        if answer is BeatAnswer.CANCEL:
            self.cancel.set()
        elif answer is BeatAnswer.LOST and not self._stopping:
            self._lose("the lease is somebody else's")

    def _guard(self) -> None:
        """Fence on time even while a beat hangs in the network."""
        while not self._stopping and not self.lost.wait(min(0.2, self._patience_s / 4)):
            if time.monotonic() - self._last_answer > self._patience_s:
                self._lose("no heartbeat was answered for nearly a lease")

    def _lose(self, why: str) -> None:
        with self._lock:
            if self.lost.is_set() or self._stopping:
                return
            self.lost.set()
        log.warning("training fences itself", action="heartbeat", job_id=self._job.id, cause=why)
        self._fence()
