"""A load client: threads that submit predictions over HTTP, each with a key, until each is accepted.

What was not answered is sent again with the same Idempotency-Key, as clients are told to do, so every key must end up
as exactly one job. Knows HTTP and the judge's record of what was promised.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faults.history import Expected, History, Watcher
from faults.service import Service, request


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One prediction to submit, and what must come of it."""

    version: str
    given: dict[str, Any]
    value: float | None
    code: str = ""


class Load:
    """`threads` clients that submit `rate` predictions a second together, until stopped."""

    def __init__(
        self,
        service: Service,
        watcher: Watcher,
        history: History,
        make: Callable[[int], Submission],
        *,
        threads: int = 4,
        rate: float = 60.0,
    ) -> None:
        self._service = service
        self._watcher = watcher
        self._history = history
        self._make = make
        self._pause_s = threads / rate
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        #: Answers by status; 0 for a request that got none.
        self.answers: Counter[int] = Counter()
        #: Seconds each request took until it was answered or given up.
        self.took_s: list[float] = []
        self.given_up = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new submissions; those that are not yet accepted are tried on for up to 20 s."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"

    def _run(self) -> None:
        connection = self._connect()
        while not self._stop.is_set():
            began = time.monotonic()
            submission = self._make(next(self._numbers))
            connection = self._submit(connection, submission, str(uuid.uuid4()))
            self._stop.wait(max(0.0, self._pause_s - (time.monotonic() - began)))
        connection.close()

    def _submit(
        self, connection: http.client.HTTPConnection, submission: Submission, key: str
    ) -> http.client.HTTPConnection:
        body = {"version": submission.version, "input": submission.given}
        give_up = time.monotonic() + 20
        while True:
            began = time.monotonic()
            try:
                status, answer = request(connection, "POST", "/v1/predictions", body, Idempotency_Key=key)
            except (OSError, http.client.HTTPException):
                status, answer = 0, None
                connection.close()
                connection = self._connect()
            now = time.monotonic()
            self.took_s.append(now - began)
            self.answers[status] += 1
            if status in (200, 201, 202):
                self._watcher.accept(Expected(id=answer["id"], value=submission.value, code=submission.code, acked=now))
                return connection
            self._history.add("refused", status=status)
            if now > give_up:
                self.given_up += 1
                return connection
            time.sleep(0.05)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=5)
