"""The auditor: walks all records in slices and checks the invariants I1 to I7; repairs one job a script.

Reads only, unless told to repair. While jobs move, sums over slices are approximate: per-job checks stay exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from coatcheck import keys
from coatcheck.store import JobStore

SLICE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken invariant; `id` is a job id, an account or empty."""

    invariant: str
    id: str
    detail: str


def audit(store: JobStore, *, repair: bool = False) -> list[Violation]:
    """Check everything; with `repair`, put sets and counters in line with the records, and tell what was found.

    Returns:
        The violations found, before repair.
    """
    violations: list[Violation] = []
    statuses: Counter[str] = Counter()
    open_jobs: Counter[str] = Counter()
    for ids in _slices(_job_ids(store)):
        for job_id, status, account, _kind, bad in store.audit(ids):
            statuses[status] += 1
            if status in ("queued", "running"):
                open_jobs[account] += 1
            violations += [Violation(invariant=line[:2], id=job_id, detail=line[3:]) for line in bad]
    violations += _strays(store)
    totals = _totals(store, statuses, open_jobs)
    if repair:
        for job_id in {violation.id for violation in violations if violation.id}:
            store.repair(job_id)
        if totals:
            _recount(store)
    return violations + totals


def _job_ids(store: JobStore) -> Iterator[str]:
    prefix = keys.job("")
    for name in store.client.scan_iter(match=_pattern(prefix), count=SLICE):
        yield name.decode().removeprefix(prefix)


def _strays(store: JobStore) -> list[Violation]:
    found = []
    sets = [keys.LEASES, keys.DELAYED, keys.DONE]
    for pattern in (keys.ready(""), keys.solo("")):
        sets += [name.decode() for name in store.client.scan_iter(match=_pattern(pattern), count=SLICE)]
    for name in sets:
        for members in _slices(member.decode() for member, _ in store.client.zscan_iter(name, count=SLICE)):
            pipeline = store.client.pipeline(transaction=False)
            for member in members:
                pipeline.exists(keys.job(member))
            for member, exists in zip(members, pipeline.execute(), strict=True):
                if not exists:
                    found.append(Violation(invariant="I1", id=member, detail=f"no record, but in {name}"))
    return found


def _totals(store: JobStore, statuses: Counter[str], open_jobs: Counter[str]) -> list[Violation]:
    counters = cast(dict[bytes, bytes], store.client.hgetall(keys.COUNTERS))
    submitted = int(counters.get(b"submitted", 0))
    ended = sum(int(value) for name, value in counters.items() if name.startswith(b"term:"))
    still_open = statuses["queued"] + statuses["running"]
    found = []
    if submitted != still_open + ended:
        detail = f"{submitted} submitted, but {still_open} open and {ended} ended"
        found.append(Violation(invariant="I5", id="", detail=detail))
    counted = cast(dict[bytes, bytes], store.client.hgetall(keys.OPEN_JOBS))
    for account in {name.decode() for name in counted} | set(open_jobs):
        told = int(counted.get(account.encode(), 0))
        if told != open_jobs[account]:
            detail = f"account {account} has {open_jobs[account]} open jobs, its counter says {told}"
            found.append(Violation(invariant="I7", id="", detail=detail))
    return found


def _recount(store: JobStore) -> None:
    statuses: Counter[str] = Counter()
    open_jobs: dict[Any, Any] = Counter()
    for ids in _slices(_job_ids(store)):
        for _id, status, account, _kind, _bad in store.audit(ids):
            statuses[status] += 1
            if status in ("queued", "running"):
                open_jobs[account] += 1
    counters = cast(dict[bytes, bytes], store.client.hgetall(keys.COUNTERS))
    ended = sum(int(value) for name, value in counters.items() if name.startswith(b"term:"))
    pipeline = store.client.pipeline(transaction=True)
    pipeline.hset(keys.COUNTERS, "submitted", ended + statuses["queued"] + statuses["running"])
    pipeline.delete(keys.OPEN_JOBS)
    if open_jobs:
        pipeline.hset(keys.OPEN_JOBS, mapping=open_jobs)
    pipeline.execute()


def _pattern(prefix: str) -> str:
    return prefix.replace("{", "\\{").replace("}", "\\}") + "*"


def _slices(items: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(items, SLICE)):
        yield chunk
