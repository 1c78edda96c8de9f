"""Our running service as the batch benchmark sees it: upload a file, have it scored, look at its workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from benchmarks.batch_model import SIGNATURE
from benchmarks.ours import OurService, our_service
from coatcheck import keys

_POLL_S = 0.05
#: A batch that takes longer is given up, seconds.
_LIMIT_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchService:
    """The service and a client of it."""

    service: OurService
    http: httpx.Client

    def upload(self, path: Path) -> str:
        """Id of the uploaded file."""
        with path.open("rb") as content:
            answer = self.http.post("/v1/files", files={"content": (path.name, content)})
        answer.raise_for_status()
        return cast(str, answer.json()["id"])

    def score(self, file: str, rows: int) -> tuple[float, float]:
        """Seconds from the request to the finished batch, and from its first chunk to the last row scored.

        Raises:
            RuntimeError: rows failed.
        """
        began = time.monotonic()
        answer = self.http.post("/v1/batches", json={"input_file": file, "version": self.service.version})
        if answer.is_error:
            raise RuntimeError(answer.text)
        job, first, last = answer.json()["id"], 0.0, 0.0
        while True:
            status, pending, succeeded, failed = self._record(job)
            now = time.monotonic()
            first = first or (now if pending else 0.0)
            if not last and succeeded + failed >= rows:
                last = now
            if status not in ("queued", "running"):
                break
            if now - began > _LIMIT_S:
                raise TimeoutError(
                    f"the batch has not ended in {_LIMIT_S} s: {succeeded} rows succeeded, {failed} failed"
                )
            time.sleep(_POLL_S)
        if status != "succeeded" or succeeded != rows:
            raise RuntimeError(f"the batch is {status}: {succeeded} rows succeeded, {failed} failed")
        self.http.delete(f"/v1/files/{self._output(job)}")
        return now - began, last - first

    def _record(self, job: str) -> tuple[str, int, int, int]:
        values = cast(list[bytes | None], self.service.redis.hmget(keys.job(job), "st", "pending", "n_ok", "n_bad"))
        return (values[0] or b"").decode(), *(int(value or 0) for value in values[1:])  # type: ignore[return-value]

    def _output(self, job: str) -> str:
        return cast(str, self.http.get(f"/v1/batches/{job}").json().get("output_file") or "none")

    def workers(self, kind: str = "predict@") -> list[int]:
        """Process ids of the workers of a kind."""
        return [pid for pid, line in self.service.supervisor.descendants().items() if kind in line]


@contextmanager
def batch_service(home: Path, model: Path, workers: int) -> Iterator[BatchService]:
    """A service with so many predict workers."""
    with (
        our_service(
            home, [model], signature=SIGNATURE, predict_workers=str(workers), upload_limit_bytes=str(2**40)
        ) as service,
        httpx.Client(
            base_url=f"http://127.0.0.1:{service.port}",
            headers={"Authorization": f"Bearer {service.key}"},
            timeout=600,
        ) as http,
    ):
        service.settle()
        yield BatchService(service=service, http=http)
