"""Lists of jobs: newest first, each job once, with cursors that stay right while jobs come and go."""

from __future__ import annotations

import random
from typing import Any

import pytest
from factories import DAY_MS, age, claim_next, claimed, completion, submitted

from coatcheck import listing
from coatcheck.errors import InvalidInput
from coatcheck.jobs import Kind, Status, new_id
from coatcheck.listing import PageRequest, read_page
from coatcheck.store import JobStore

NOW_MS = 1_800_000_000_000
PREDICTIONS = (Kind.PREDICTION,)


@pytest.fixture
def store(redis) -> JobStore:
    return JobStore(redis)


def submitted_at(store: JobStore, milliseconds: int, **changes) -> str:
    return submitted(store, id=new_id(NOW_MS + milliseconds), **changes)


def pages(store: JobStore, account: str = "ann", **wanted) -> list[list[str]]:
    """All pages from the newest to the oldest."""
    found, cursor = [], ""
    while True:
        asked: dict[str, Any] = {"kinds": PREDICTIONS, "limit": 3, "cursor": cursor} | wanted
        page = read_page(store, account, PageRequest(**asked))
        found.append([job.id for job in page.jobs])
        cursor = page.older
        if not cursor:
            return found


def flat(found: list[list[str]]) -> list[str]:
    return [job_id for page in found for job_id in page]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 6, 7])
def test_every_job_is_on_one_page_newest_first(store, number):
    ids = [submitted_at(store, moment) for moment in range(number)]
    found = pages(store)
    assert flat(found) == ids[::-1]
    assert all(len(page) == 3 for page in found[:-1])
    assert found[-1] or number == 0, "no empty page at the end"


@pytest.mark.parametrize("limit", [30, 100])
def test_jobs_of_one_millisecond_are_all_there(store, limit):
    ids = [submitted_at(store, 0) for _ in range(2 * listing.SCAN + 5)]
    random.Random(1).shuffle(ids)
    ids += [submitted_at(store, 1), submitted_at(store, -1)]
    assert sorted(flat(pages(store, limit=limit))) == sorted(ids)


def test_page_before_leads_back_to_the_same_jobs(store):
    ids = [submitted_at(store, moment) for moment in range(9)][::-1]
    second = read_page(store, "ann", PageRequest(kinds=PREDICTIONS, limit=3, cursor=ids[2]))
    assert [job.id for job in second.jobs] == ids[3:6]
    assert second.newer == ids[3]
    back = read_page(store, "ann", PageRequest(kinds=PREDICTIONS, limit=3, cursor=second.newer, newer=True))
    assert [job.id for job in back.jobs] == ids[:3]
    assert (back.newer, back.older) == ("", ids[2])
    assert read_page(store, "ann", PageRequest(kinds=PREDICTIONS, limit=3)).newer == "", "nothing before the first page"


def test_cursor_survives_new_jobs_and_the_deletion_of_its_own(store):
    old = [submitted_at(store, moment, keep_ms=0) for moment in range(6)]
    first = read_page(store, "ann", PageRequest(kinds=PREDICTIONS, limit=2))
    assert first.older == old[4]
    submitted_at(store, 100)
    store.cancel(old[4])
    store.gc()
    assert store.get(old[4]) is None
    rest = read_page(store, "ann", PageRequest(kinds=PREDICTIONS, limit=10, cursor=first.older))
    assert [job.id for job in rest.jobs] == old[3::-1]


def test_filters_keep_what_fits(store):
    running = claimed(store, id=new_id(NOW_MS)).id
    other = submitted_at(store, 1, model="ann/other", version="v2")
    waiting = submitted_at(store, 2)
    foreign = submitted_at(store, 3, account="bob")
    training = submitted_at(store, 4, kind=Kind.TRAINING, queue="train", destination="ann/other")
    assert flat(pages(store, statuses=(Status.RUNNING,))) == [running]
    assert flat(pages(store, statuses=(Status.RUNNING, Status.QUEUED))) == [waiting, other, running]
    assert flat(pages(store, model="ann/other")) == [other]
    assert flat(pages(store, version="v2")) == [other]
    assert flat(pages(store, kinds=(Kind.TRAINING, Kind.PREDICTION), model="ann/other")) == [training, other]
    assert flat(pages(store, after_ms=NOW_MS + 1, before_ms=NOW_MS + 2)) == [other]
    assert flat(pages(store, account="bob")) == [foreign]
    store.cancel(running)
    assert flat(pages(store, statuses=(Status.CANCELING,))) == [running]


def test_rare_match_far_behind_is_found_over_several_pages(store, monkeypatch):
    monkeypatch.setattr(listing, "MOST_SCANNED", 200)
    monkeypatch.setattr(listing, "SCAN", 100)
    rare = submitted_at(store, 0, version="rare")
    for moment in range(1, 450):
        submitted_at(store, moment)
    found = pages(store, version="rare")
    assert flat(found) == [rare]
    assert found[0] == [], "the first page looked at its share and goes on"


def test_deleted_jobs_leave_the_list(store):
    kept = submitted_at(store, 0)
    store.complete(completion(claim_next(store).jobs[0]))
    assert flat(pages(store)) == [kept]
    age(store.client, DAY_MS + 1)
    store.gc()
    assert pages(store) == [[]]


@pytest.mark.parametrize("cursor", ["x", "c" + "u" * 26, "../..", "0"])
def test_cursor_that_is_none_is_refused(store, cursor):
    with pytest.raises(InvalidInput) as refused:
        read_page(store, "ann", PageRequest(kinds=PREDICTIONS, cursor=cursor))
    assert refused.value.field == "cursor"
