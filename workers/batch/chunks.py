"""A worker's claimed chunks: the plan and the open file they need, their parts in storage, their completion.

Knows jobs and storage; how a chunk is scored is `score.py`'s. A few batches are remembered, so that the chunks of a
file do not each open it again: batches of one version take turns.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import msgspec
import structlog

from coatcheck.batches import ChunkInput, ChunkResult, Part, Plan, parts_prefix, plan_name
from coatcheck.claims import Claimed, Completion
from coatcheck.core import Core
from coatcheck.errors import FileNotFound
from coatcheck.failpoints import Failpoints
from coatcheck.images import MAX_IMAGE_BYTES
from coatcheck.jobs import Status, Tally
from workers.batch.openai_score import score_requests
from workers.batch.parquet_chunks import DamagedFileError
from workers.batch.readers import open_reader
from workers.batch.score import score_chunk
from workers.sessions import LoadedSession
from workers.turns import whole_slice

#: How many batches are remembered, and how long each after its last chunk here.
_MOST_OPEN = 4
_KEPT_S = 10.0

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class _Opened:
    """A batch whose chunks are scored now."""

    plan: Plan
    source: BinaryIO
    #: `score_chunk` or `score_requests` with the open file.
    score: Callable[..., Generator[None, None, ChunkResult]]
    #: When its last chunk was, monotonic seconds.
    used: float


class ChunkRunner:
    """Scores claimed chunks, one after the other.

    Args:
        between: called between two slices; runs predictions that wait.
        unwanted: job id -> the chunk is to be handed back (the worker stops, the batch was canceled, the lease lost).
        slice_s: how long a slice should be now, seconds.
    """

    def __init__(
        self,
        core: Core,
        failpoints: Failpoints,
        between: Callable[[], None],
        unwanted: Callable[[str], bool],
        slice_s: Callable[[], float] = whole_slice,
    ) -> None:
        self._core = core
        self._failpoints = failpoints
        self._between = between
        self._unwanted = unwanted
        self._slice_s = slice_s
        #: By batch, the one whose chunk was last is the last.
        self._opened: dict[str, _Opened] = {}
        #: Held while a chunk is scored.
        self._busy = threading.Lock()
        self._timer: threading.Timer | None = None

    def run(self, session: LoadedSession, job: Claimed) -> Completion | None:
        """Score a chunk; None: it is to be handed back.

        Raises:
            Whatever storage raises: to be tried again. What `between` raises.
        """
        with self._busy:
            try:
                return self._run(session, job)
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = threading.Timer(_KEPT_S, self._forget_at_rest)
                self._timer.daemon = True
                self._timer.start()

    def _run(self, session: LoadedSession, job: Claimed) -> Completion | None:
        chunk = msgspec.json.decode(self._core.store.input_of(job) or self._stored(job), type=ChunkInput)
        try:
            opened = self._open(chunk.batch, session)
        except FileNotFound as error:  # the file or the batch was deleted meanwhile
            return _failed(job, error.code, "The batch's file was deleted before this chunk was scored.")
        fence = job.token.partition(":")[0]
        prefix = parts_prefix(chunk.batch, chunk.n, fence)
        slices = opened.score(
            session,
            chunk,
            opened.plan,
            write_part=lambda kind, pieces: self._write(f"{prefix}/{kind}", pieces),
            read_file=self._file_reader(opened.plan),
            slice_s=self._slice_s,
        )
        try:
            result = self._slices(slices, job)
        except DamagedFileError as error:
            self._forget(chunk.batch)
            log.warning("chunk does not read", action="score", job_id=job.id, cause=error)
            return _failed(job, "damaged_file", "The file is damaged here: these rows do not read as Parquet.")
        except BaseException:
            self._forget(chunk.batch)
            raise
        opened.used = time.monotonic()
        if result is None:
            self._forget(chunk.batch)
            return None
        return Completion(
            id=job.id,
            token=job.token,
            status=Status.SUCCEEDED,
            output=msgspec.json.encode(result),
            provider=session.provider,
            tally=Tally(succeeded=result.succeeded, failed=result.failed, codes=result.codes),
        )

    def _slices(self, slices: Generator[None, None, ChunkResult], job: Claimed) -> ChunkResult | None:
        with contextlib.closing(slices):
            while True:
                try:
                    next(slices)
                except StopIteration as stop:
                    result: ChunkResult = stop.value
                    return result
                if self._unwanted(job.id):
                    return None
                self._failpoints.hit("slice")
                self._between()

    def _forget_at_rest(self) -> None:
        if self._busy.acquire(blocking=False):
            try:
                self._forget_unused()
            finally:
                self._busy.release()

    def _forget_unused(self) -> None:
        """A batch that has ended need not keep its file open, nor what the reader holds of it."""
        before = time.monotonic() - _KEPT_S * 0.9
        for batch in [batch for batch, opened in self._opened.items() if opened.used <= before]:
            self._forget(batch)

    def _forget(self, batch: str) -> None:
        opened = self._opened.pop(batch, None)
        if opened is not None:
            with contextlib.suppress(Exception):
                opened.source.close()

    def _open(self, batch: str, session: LoadedSession) -> _Opened:
        self._forget_unused()
        opened = self._opened.pop(batch, None)
        if opened is None:
            while len(self._opened) >= _MOST_OPEN:
                self._forget(next(iter(self._opened)))
            plan = msgspec.json.decode(self._core.artifacts.read_bytes(plan_name(batch)), type=Plan)
            source = self._core.artifacts.open(plan.source)
            if plan.form.format == "openai":
                score: Callable[..., Generator[None, None, ChunkResult]] = partial(score_requests, source=source)
            else:
                score = partial(score_chunk, reader=open_reader(source, plan, session.signature))
            opened = _Opened(plan=plan, source=source, score=score, used=time.monotonic())
        self._opened[batch] = opened
        return opened

    def _stored(self, job: Claimed) -> bytes:
        return self._core.artifacts.read_bytes(f"{job.input_ref}/input.json")

    def _write(self, name: str, pieces: Sequence[bytes] | Iterator[bytes]) -> Part:
        if isinstance(pieces, Sequence) and not pieces:
            return Part()
        size, sha256 = self._core.artifacts.write_pieces(name, pieces)
        self._failpoints.hit("part")
        return Part(name=name, size=size, sha256=sha256)

    def _file_reader(self, plan: Plan) -> Callable[[str], bytes]:
        def read_file(file_id: str) -> bytes:
            file = self._core.files.get(plan.account, file_id)  # only the account's own
            return self._core.artifacts.read_at_most(file.content_name, MAX_IMAGE_BYTES)

        return read_file


def _failed(job: Claimed, code: str, error: str) -> Completion:
    return Completion(id=job.id, token=job.token, status=Status.FAILED, code=code, error=error)
