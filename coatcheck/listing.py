"""Lists of jobs: newest first, filtered, with cursors that stay right while jobs come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from coatcheck import keys
from coatcheck.errors import InvalidInput
from coatcheck.jobs import Job, Kind, Status, id_time_ms
from coatcheck.store import JobStore

SCAN = 200
MOST_SCANNED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """What to list. Times in milliseconds; `cursor` is the id of the last job of the page before."""

    kinds: tuple[Kind, ...]
    statuses: tuple[Status, ...] = ()
    model: str = ""
    version: str = ""
    after_ms: int | None = None
    before_ms: int | None = None
    limit: int = 100
    cursor: str = ""
    #: Walk towards newer jobs (for a `previous` link).
    newer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Jobs, newest first, and the cursors that lead on to either side (empty: nothing there)."""

    jobs: list[Job]
    older: str
    newer: str


def read_page(store: JobStore, account: str, request: PageRequest) -> Page:
    """One page. Filters look at no more than 20,000 records: a page may then be short, even empty, and go on.

    Raises:
        InvalidInput: the cursor is no job id.
    """
    if request.cursor and id_time_ms(request.cursor) is None:
        raise InvalidInput(f"cursor is {request.cursor[:80]!r}; expected one this service gave", field="cursor")
    wanted: list[Job] = []
    mark, scanned, more = request.cursor, 0, True
    while more and len(wanted) <= request.limit and scanned < MOST_SCANNED:
        ids = _ids(store, account, request, mark)
        more, ids = len(ids) > SCAN, ids[:SCAN]
        if not _filtered(request):  # then every record is wanted: no more are read than shown
            more, ids = more or len(ids) > request.limit + 1, ids[: request.limit + 1]
        scanned += len(ids)
        if ids:
            mark = ids[-1]
            wanted += [job for job in store.get_many(ids) if job is not None and _fits(job, request)]
    shown = wanted[: request.limit]
    onward = mark if more else ""
    if len(wanted) > request.limit:
        onward = shown[-1].id
    if request.newer:
        shown.reverse()
        return Page(jobs=shown, older=shown[-1].id if shown else request.cursor, newer=onward)
    backward = (shown[0].id if shown else request.cursor) if request.cursor else ""
    return Page(jobs=shown, older=onward, newer=backward)


def _ids(store: JobStore, account: str, request: PageRequest, mark: str) -> list[str]:
    """More than `SCAN` ids where there are so many, in the direction of the walk, from behind `mark`."""
    # A job's score in these sets is its id's own time, so a mark needs no look-up and may be deleted meanwhile.
    low = "-inf" if request.after_ms is None else str(request.after_ms)
    high = "+inf" if request.before_ms is None else f"({request.before_ms}"
    at = str(id_time_ms(mark)) if mark else ""
    pipeline = store.client.pipeline(transaction=False)
    for kind in request.kinds:
        name = keys.jobs_of(account, kind)
        if mark:  # the others of its millisecond, however many
            pipeline.zrangebyscore(name, at, at, withscores=True)
        if request.newer:
            pipeline.zrangebyscore(name, f"({at}" if mark else low, high, 0, SCAN + 1, withscores=True)
        else:
            pipeline.zrevrangebyscore(name, f"({at}" if mark else high, low, 0, SCAN + 1, withscores=True)
    found = sorted(
        (
            (score, job_id.decode())
            for part in cast(list[list[tuple[bytes, float]]], pipeline.execute())
            for job_id, score in part
        ),
        reverse=not request.newer,
    )
    if mark:
        beyond = (float(at), mark)
        found = [entry for entry in found if (entry > beyond if request.newer else entry < beyond)]
    return [job_id for _, job_id in found]


def _filtered(request: PageRequest) -> bool:
    return bool(request.statuses or request.model or request.version)


def _fits(job: Job, request: PageRequest) -> bool:
    return (
        (not request.statuses or job.status in request.statuses)
        and (not request.model or request.model in (job.model, job.destination))
        and (not request.version or job.version == request.version)
    )
