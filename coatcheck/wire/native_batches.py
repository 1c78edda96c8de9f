"""Batches in the native dialect: what a request may say, as JSON or as the fields of a form, and the Batch object.

Pure translation: knows no HTTP, no Redis and no file format.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coatcheck.batches import FORMATS, BatchInput, BatchProgress, BatchSummary, speed
from coatcheck.errors import InvalidInput, UnknownField
from coatcheck.jobs import Job, Status
from coatcheck.wire.described import ScoredModel
from coatcheck.wire.native import (
    AttemptReport,
    QueueReport,
    TimelineEntry,
    attempts,
    error_sentence,
    job_urls,
    moment,
    status_word,
    timeline,
)
from coatcheck.wire.native_requests import Callback
from coatcheck.wire.reading import misfit

#: Words for yes and no in a form.
_YES_NO = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


_FORMATS = msgspec.Meta(extra_json_schema={"enum": ["", *(name for name in FORMATS if name != "openai")]})
_RETENTION = msgspec.Meta(extra_json_schema={"minimum": 1})
_DEADLINE = msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": 30 * 86400})


class BatchRequestBody(Callback, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/batches. `model` is owner/name or owner/name:<id, alias or number>; `version` alone an id."""

    #: Id or URL of an uploaded file; in a form the file itself comes instead.
    input_file: str
    model: ScoredModel = ""
    version: str = ""
    format: Annotated[str, _FORMATS] = ""
    output_format: Annotated[str, _FORMATS] = ""
    #: The input's columns stand beside the predictions: all, those included, all but those excluded.
    join: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Seconds after which it ends with what is done.
    deadline: Annotated[float, _DEADLINE] | None = None
    #: Seconds that the finished batch and its files are kept; at most what the service keeps jobs.
    retention_s: Annotated[float, _RETENTION] | None = None
    #: Look at the file, count and estimate; score nothing.
    dry_run: bool = False
    #: "allow": a table may leave out the columns of inputs that may be missing.
    missing_columns: Literal["", "allow"] = ""
    #: "keep": texts of a CSV or TSV output that a spreadsheet would run get no apostrophe before them.
    formulas: Literal["", "keep"] = ""


class RetryBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/batches/{id}/retry."""

    #: "failed" scores only the rows that failed; nothing scores all again.
    only: Literal["failed"] | None = None
    #: An id, alias or number of the batch's model.
    version: str = ""
    #: A corrected file, whose rows have the same numbers.
    input_file: str = ""


class Rows(msgspec.Struct, kw_only=True):
    """Rows of a batch: planned so far (null: none yet), and how those that were scored ended."""

    total: int | None
    succeeded: int
    failed: int


class BatchObject(msgspec.Struct, kw_only=True):
    """A batch. `output_file` and `error_file` are ids of files, null while there are none."""

    id: str
    status: str
    state: str
    model: str
    version: str
    input_file: str | None
    output_file: str | None
    error_file: str | None
    rows: Rows
    errors: dict[str, int]
    rows_per_s: float | None
    eta_s: float | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    urls: dict[str, str]
    #: What was asked beside the file and the version.
    options: dict[str, Any]
    #: Of a dry run.
    report: dict[str, Any] | None
    notes: list[str]
    error: str | None
    code: str | None
    chunks: dict[str, int]
    queue: QueueReport | None
    attempts: list[AttemptReport]
    timeline: list[TimelineEntry]
    webhook: str | None
    webhook_events_filter: list[str] | None
    webhook_status: str | None
    expires_at: datetime | None
    retry_of: str | None


# -- requests ------------------------------------------------------------------------------------------------


def batch_input(body: BatchRequestBody) -> BatchInput:
    """A body as the batch's input."""
    return BatchInput(
        input_file=body.input_file,
        format=body.format.lower(),
        output_format=body.output_format.lower(),
        join=body.join,
        include=body.include,
        exclude=body.exclude,
        deadline_s=body.deadline,
        dry_run=body.dry_run,
        output_expires_s=None if body.retention_s is None else max(1, int(body.retention_s)),
        missing_columns=body.missing_columns,
        formulas=body.formulas,
    )


def wanted_version(body: BatchRequestBody) -> tuple[str, str]:
    """Model and version of a body, each perhaps empty, as `JobQueue.submit_batch` takes them.

    Raises:
        InvalidInput: neither is there.
    """
    model, _, reference = body.model.partition(":")
    if not model and "/" in body.version:
        model, _, reference = body.version.partition(":")
        return model, reference
    if model and body.version and reference:
        raise InvalidInput("model names a version, and version another; expected one of them", field="version")
    if not model and not body.version:
        raise InvalidInput("model is missing; expected owner/name, or version: the id of one", field="model")
    if model and "/" not in model:
        raise InvalidInput(f"model is {model[:80]!r}; expected owner/name", field="model")
    return model, reference or body.version


def form_body(fields: Mapping[str, str]) -> BatchRequestBody:
    """The fields of a form, whose file has been stored already, as a body; its `input_file` is empty.

    Raises:
        UnknownField, InvalidInput.
    """
    given: dict[str, Any] = {"input_file": ""}
    for name, text in fields.items():
        if name in ("join", "dry_run"):
            given[name] = _yes_no(name, text)
        elif name in ("include", "exclude", "webhook_events_filter"):
            given[name] = _names(name, text)
        elif name in ("deadline", "retention_s"):
            given[name] = _number(name, text)
        elif name in _TEXT:
            given[name] = text
        else:
            raise UnknownField(
                f"{name[:80]} is no field of a batch; expected file, {', '.join((*_TEXT, *_OTHER))}", field=name
            )
    try:
        return msgspec.convert(given, BatchRequestBody)
    except msgspec.ValidationError as error:
        raise misfit(str(error), BatchRequestBody) from None


_TEXT = ("model", "version", "format", "output_format", "missing_columns", "formulas", "webhook", "webhook_completed")
_OTHER = ("join", "include", "exclude", "deadline", "retention_s", "dry_run", "webhook_events_filter")


def _yes_no(name: str, text: str) -> bool:
    if text.strip().lower() not in _YES_NO:
        raise InvalidInput(f"{name} is {text[:40]!r}; expected true or false", field=name)
    return _YES_NO[text.strip().lower()]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{name} is {text[:40]!r}; expected a number of seconds", field=name) from None


def _names(name: str, text: str) -> list[str]:
    """A JSON list, or names with commas between them."""
    if text.lstrip().startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.MsgspecError:
            raise InvalidInput(f"{name} is {text[:40]!r}; expected a JSON list of texts", field=name) from None
    return [part.strip() for part in text.split(",") if part.strip()]


# -- the object ----------------------------------------------------------------------------------------------


def batch_object(
    job: Job,
    base_url: str,
    *,
    input_json: bytes | None = None,
    output_json: bytes | None = None,
    queue: QueueReport | None = None,
    full: bool = True,
    now_ms: float | None = None,
) -> BatchObject:
    """A batch as the dialect tells it, whichever dialect it was made in.

    Args:
        job: the record.
        base_url: scheme and host of absolute URLs, no slash at the end.
        input_json: JSON of the input where it does not lie in the record.
        output_json: JSON of the output where it does not lie in the record.
        queue: why it waits, where that was looked up.
        full: with attempts and timeline; lists leave them out.
        now_ms: milliseconds since the epoch; None for now.
    """
    raw_input = job.input if job.input is not None else input_json
    raw_output = job.output if job.output is not None else output_json
    given = msgspec.json.decode(raw_input, type=BatchInput) if raw_input else None
    summary = msgspec.json.decode(raw_output, type=BatchSummary) if raw_output else BatchSummary()
    told = progress_of(job, now_ms=now_ms)
    # Once it has ended the files are what counts; until then, and where it never came to files, the tally.
    ended = bool(summary.output_file or summary.error_file)
    state = state_word(job)
    return BatchObject(
        id=job.id,
        status="processing" if state in ("running", "canceling") else status_word(job.status),
        state=state,
        model=job.model,
        version=job.version,
        input_file=given.input_file if given else None,
        output_file=summary.output_file or None,
        error_file=summary.error_file or None,
        rows=Rows(
            total=summary.total if raw_output else told.total,
            succeeded=summary.succeeded if ended else told.succeeded,
            failed=summary.failed if ended else told.failed,
        ),
        errors=summary.codes if ended else dict(job.tally.codes),
        rows_per_s=told.rows_per_s,
        eta_s=told.eta_s,
        created_at=_moment(job.created_ms),
        started_at=moment(told.started_ms),
        completed_at=moment(job.ended_ms),
        urls=batch_urls(job, base_url),
        options=_options(given),
        report=summary.report,
        notes=list(summary.notes),
        error=error_sentence(job),
        code=job.code or None,
        chunks={"total": job.children, "open": job.pending},
        queue=queue,
        attempts=attempts(job.history) if full else [],
        timeline=timeline(job.history) if full else [],
        webhook=job.webhook or None,
        webhook_events_filter=job.webhook_events.split(",") if job.webhook_events else None,
        webhook_status=job.webhook_status or None,
        expires_at=moment(job.delete_ms),
        retry_of=job.retry_of or None,
    )


def file_ids_of(output_json: bytes | None) -> tuple[str, str]:
    """Ids of the output and the error file that a batch's output names, empty for none."""
    summary = msgspec.json.decode(output_json, type=BatchSummary) if output_json else BatchSummary()
    return summary.output_file, summary.error_file


class BatchProgressObject(msgspec.Struct, kw_only=True):
    """What a batch's `progress` events say. `total` is null until its file has been looked at."""

    total: int | None
    succeeded: int
    failed: int
    rows_per_s: float | None
    eta_s: float | None
    started_ms: int | None


def progress_of(job: Job, *, now_ms: float | None = None) -> BatchProgressObject:
    """How far a batch is; its rate counts from its first claim."""
    progress = msgspec.json.decode(job.progress, type=BatchProgress) if job.progress else BatchProgress()
    done = job.tally.succeeded + job.tally.failed
    until_ms = job.ended_ms or (time.time() * 1000 if now_ms is None else now_ms)
    started_ms = progress.started_ms or job.started_ms
    seconds = (until_ms - started_ms) / 1000 if started_ms else 0.0
    rate, left_s = speed(done, progress.total if progress.whole else 0, seconds)
    return BatchProgressObject(
        total=progress.total if progress.whole else None,
        succeeded=job.tally.succeeded,
        failed=job.tally.failed,
        rows_per_s=None if rate is None else round(rate, 1),
        eta_s=None if left_s is None or job.status.terminal else round(left_s, 1),
        started_ms=started_ms,
    )


def state_word(job: Job) -> str:
    """The glossary's word; a batch that goes back to its queue between its two halves is still running."""
    if job.status is Status.QUEUED and (job.planned or job.children):
        return Status.RUNNING.value
    return job.status.value


def batch_urls(job: Job, base_url: str) -> dict[str, str]:
    """Absolute addresses of what can be done with a batch."""
    urls = job_urls(job, base_url)
    return {**urls, "output": f"{urls['get']}/output", "errors": f"{urls['get']}/errors"}


def _options(given: BatchInput | None) -> dict[str, Any]:
    if given is None:
        return {}
    told: dict[str, Any] = msgspec.to_builtins(given)
    told.pop("input_file", None)
    if "deadline_s" in told:
        told["deadline"] = told.pop("deadline_s")
    return told


def _moment(ms: int) -> datetime:
    found = moment(ms)
    assert found is not None
    return found
