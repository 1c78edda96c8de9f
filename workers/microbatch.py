"""Run claimed predictions together: decode, pack, run, split, encode; a bad one fails alone.

Turns claims into completions. Knows no Redis: reading inputs and writing large outputs are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from coatcheck.claims import Claimed, Completion
from coatcheck.errors import CoatcheckError
from coatcheck.jobs import Status
from coatcheck.signature import ParsedInput, validate_input
from workers.decoding import decode_values, encode_outputs
from workers.sessions import LoadedSession

log = structlog.get_logger()

#: Most rows of one run of ONNX Runtime, whatever one job brings.
MOST_ROWS_A_RUN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decoded jobs of one version, packed: `rows` [N, ...] float32; job i has `counts[i]` of them in order."""

    jobs: list[Claimed]
    parsed: list[ParsedInput]
    rows: npt.NDArray[np.float32]

    @property
    def counts(self) -> list[int]:
        """Rows of each job."""
        return [parsed.rows for parsed in self.parsed]


class BatchRunner:
    """Runs micro-batches of one worker and counts what it ran.

    Args:
        read_input: a claimed job's input JSON, from the claim or from storage.
        read_file: an uploaded file's bytes by id.
        store_output: job, token, output JSON -> artifact prefix, or '' to keep it in the record.
    """

    def __init__(
        self,
        *,
        read_input: Callable[[Claimed], bytes],
        read_file: Callable[[str], bytes],
        store_output: Callable[[Claimed, bytes], str],
    ) -> None:
        self._read_input = read_input
        self._read_file = read_file
        self._store_output = store_output
        self.runs = 0
        self.rows = 0

    def run(self, session: LoadedSession, jobs: list[Claimed]) -> list[Completion]:
        """One completion a job, in no particular order."""
        batch, failed = self._decode(session, jobs)
        return failed + (self._run_halving(session, batch) if batch is not None else [])

    def _decode(self, session: LoadedSession, jobs: list[Claimed]) -> tuple[Batch | None, list[Completion]]:
        accepted: list[Claimed] = []
        parsed: list[ParsedInput] = []
        failed: list[Completion] = []
        for job in jobs:
            try:
                parsed.append(validate_input(session.signature, self._read_input(job)))
                accepted.append(job)
            except CoatcheckError as error:
                failed.append(_failed(job, error.code, str(error)))
        if not accepted:
            return None, failed
        try:
            values = [row for one in parsed for row in one.values]
            rows = decode_values(session.signature, values, self._read_file)
        except CoatcheckError:
            return self._decode_singly(session, accepted, parsed, failed)
        return Batch(jobs=accepted, parsed=parsed, rows=rows), failed

    def _decode_singly(
        self, session: LoadedSession, jobs: list[Claimed], parsed: list[ParsedInput], failed: list[Completion]
    ) -> tuple[Batch | None, list[Completion]]:
        good: list[tuple[Claimed, ParsedInput, npt.NDArray[np.float32]]] = []
        for job, one in zip(jobs, parsed, strict=True):
            try:
                good.append((job, one, decode_values(session.signature, one.values, self._read_file)))
            except CoatcheckError as error:
                failed.append(_failed(job, error.code, str(error)))
        if not good:
            return None, failed
        rows = np.concatenate([rows for _, _, rows in good])
        return Batch(jobs=[job for job, _, _ in good], parsed=[one for _, one, _ in good], rows=rows), failed

    def _run_halving(self, session: LoadedSession, batch: Batch) -> list[Completion]:
        try:
            outputs = self._run_rows(session, batch.rows)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types; the batch is halved on any
            if len(batch.jobs) == 1:
                log.warning("prediction failed", action="complete", job_id=batch.jobs[0].id, cause=str(error)[:500])
                return [_failed(batch.jobs[0], "run_failed", "The model cannot run on this input.")]
            return [done for half in _halves(batch) for done in self._run_halving(session, half)]
        encoded = encode_outputs(session.signature, outputs)
        completions, start = [], 0
        for job, parsed in zip(batch.jobs, batch.parsed, strict=True):
            part = encoded[start : start + parsed.rows]
            start += parsed.rows
            completions.append(self._succeeded(job, session.provider, part if parsed.many else part[0]))
        return completions

    def _run_rows(self, session: LoadedSession, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        parts = []
        for start in range(0, len(rows), MOST_ROWS_A_RUN):
            parts.append(session.run(rows[start : start + MOST_ROWS_A_RUN]))
            self.runs += 1
        self.rows += len(rows)
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _succeeded(self, job: Claimed, provider: str, output: Any) -> Completion:
        content = msgspec.json.encode(output)
        ref = self._store_output(job, content)
        return Completion(
            id=job.id,
            token=job.token,
            status=Status.SUCCEEDED,
            output=b"" if ref else content,
            output_ref=ref,
            provider=provider,
        )


def _failed(job: Claimed, code: str, error: str) -> Completion:
    return Completion(id=job.id, token=job.token, status=Status.FAILED, code=code, error=error)


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch.jobs) // 2
    rows = sum(batch.counts[:middle])
    return [
        Batch(jobs=batch.jobs[:middle], parsed=batch.parsed[:middle], rows=batch.rows[:rows]),
        Batch(jobs=batch.jobs[middle:], parsed=batch.parsed[middle:], rows=batch.rows[rows:]),
    ]
