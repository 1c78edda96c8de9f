"""Lists of jobs: newest first, filtered, with cursors that stay right while jobs come and go."""

from __future__ import annotations

import heapq
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
    """Jobs, newest first, and whether there are more on either side."""

    jobs: list[Job]
    older: bool
    newer: bool


def read_page(store: JobStore, account: str, request: PageRequest) -> Page:
    """One page. Filters scan at most 20,000 records; a page may then be short with `older` still true.

    Raises:
        InvalidInput: the cursor is no job id.
    """
    if request.cursor and id_time_ms(request.cursor) is None:
        raise InvalidInput(f"cursor is {request.cursor[:80]!r}; expected one this service gave", field="cursor")
    wanted: list[Job] = []
    mark, scanned, more = request.cursor, 0, True
    while more and len(wanted) <= request.limit and scanned < MOST_SCANNED:
        ids = _ids(store, account, request, mark)
        more, scanned = len(ids) == SCAN, scanned + len(ids)
        if ids:
            mark = ids[-1]
            wanted += [job for job in store.get_many(ids) if job is not None and _fits(job, request)]
    beyond = more or len(wanted) > request.limit
    wanted = wanted[: request.limit]
    if request.newer:
        wanted.reverse()
        return Page(jobs=wanted, older=True, newer=beyond)
    return Page(jobs=wanted, older=beyond, newer=bool(request.cursor))


def _ids(store: JobStore, account: str, request: PageRequest, mark: str) -> list[str]:
    # A job's score in these sets is its id's own time, so a mark needs no look-up and may be deleted meanwhile.
    low = "-inf" if request.after_ms is None else str(request.after_ms)
    high = "+inf" if request.before_ms is None else f"({request.before_ms}"
    at = str(id_time_ms(mark)) if mark else ""
    pipeline = store.client.pipeline(transaction=False)
    for kind in request.kinds:
        name = keys.jobs_of(account, kind)
        if request.newer:
            pipeline.zrangebyscore(name, at or low, high, 0, SCAN + 1, withscores=True)
        else:
            pipeline.zrevrangebyscore(name, at or high, low, 0, SCAN + 1, withscores=True)
    rows = [
        [(score, job_id.decode()) for job_id, score in part]
        for part in cast(list[list[tuple[bytes, float]]], pipeline.execute())
    ]
    merged = list(heapq.merge(*rows, reverse=not request.newer))
    if mark:
        beyond = (float(at), mark)
        merged = [entry for entry in merged if (entry > beyond if request.newer else entry < beyond)]
    return [job_id for _, job_id in merged][:SCAN]


def _fits(job: Job, request: PageRequest) -> bool:
    return (
        (not request.statuses or job.status in request.statuses)
        and (not request.model or request.model in (job.model, job.destination))
        and (not request.version or job.version == request.version)
    )
