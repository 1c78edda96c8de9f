"""The predict loop and the chunks of batches: predictions do not wait behind them, and idle time is theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import pytest
from bulk_chunks import start_batch
from factories import assert_clean
from predicting import finished, running, submit, value_of, wait_until
from tiny_versions import ACCOUNT, lookup, publish

from coatcheck.core import Core, open_core
from coatcheck.jobs import Status
from workers.predict import PredictLoop
from workers.turns import BULK_EVERY

ROWS = 4
CSV = b"x\n" + b"".join(b"%d\n" % (number % ROWS) for number in range(60 * ROWS))


@pytest.fixture
def core(redis, settings) -> Iterator[Core]:
    """Micro-batches of one prediction, so that slices can be counted."""
    made = open_core(replace(settings, batch_rows=1))
    yield made
    made.store.client.close()


def is_queued(core: Core, job_id: str) -> bool:
    return core.queue.get(ACCOUNT, job_id).status is Status.QUEUED


@pytest.fixture
def every_group_a_slice(monkeypatch) -> None:
    """As if a group of rows took all of a slice's time."""
    monkeypatch.setattr("workers.turns.SLICE_S", 0.0)


@pytest.fixture
def turns(monkeypatch) -> list[str]:
    """What the loop did, in order: the queue of each micro-batch, and `slice` after each slice of a chunk."""
    taken: list[str] = []
    run: Callable[..., Any] = PredictLoop._run
    serve: Callable[..., Any] = PredictLoop._serve_waiting

    def noting_run(self, queue, jobs):
        taken.append(queue)
        return run(self, queue, jobs)

    def noting_slice(self):
        taken.append("slice")
        return serve(self)

    monkeypatch.setattr(PredictLoop, "_run", noting_run)
    monkeypatch.setattr(PredictLoop, "_serve_waiting", noting_slice)
    return taken


def test_backlog_of_chunks_takes_one_slice_in_four_from_predictions(core, turns, every_group_a_slice):
    version = publish(core, lookup(), "lookup")
    batch = start_batch(core, version, CSV, chunk_rows=20 * ROWS, group_rows=ROWS)
    ids = [submit(core, version, {"x": number}) for number in range(60)]
    with running(core):
        jobs = finished(core, *ids)
        chunks = finished(core, *batch.chunks)
    assert [value_of(core, job) for job in jobs] == [10.0 * number for number in range(60)]
    last = max(number for number, taken in enumerate(turns) if taken.startswith("predict:"))
    slices = turns[:last].count("slice")
    assert 60 // (BULK_EVERY - 1) - 2 <= slices <= 60 // (BULK_EVERY - 1) + 1
    assert turns[: last + 1].count(f"predict:{version}") == 60
    assert {chunk.status for chunk in chunks} == {Status.SUCCEEDED}
    assert_clean(core.store)


def test_prediction_that_comes_while_a_chunk_runs_is_next(core, turns, every_group_a_slice, monkeypatch):
    version = publish(core, lookup(), "lookup")
    batch = start_batch(core, version, CSV, chunk_rows=60 * ROWS, group_rows=ROWS)
    predictions: list[str] = []
    noting: Callable[..., Any] = PredictLoop._serve_waiting

    def submitting(self):
        if turns.count("slice") % 5 == 4 and len(predictions) < 5:
            predictions.append(submit(core, version, {"x": 7}))
            turns.append("submitted")
        return noting(self)

    monkeypatch.setattr(PredictLoop, "_serve_waiting", submitting)
    with running(core):
        finished(core, *batch.chunks)
        finished(core, *predictions)
    assert len(predictions) == 5
    places = [number for number, taken in enumerate(turns) if taken == "submitted"]
    assert [turns[place + 1 : place + 3] for place in places] == [["slice", f"predict:{version}"]] * 5
    assert turns.count(f"bulk:{version}") == 1


def test_idle_worker_drains_chunks_and_their_batches_go_on(core, turns):
    versions = [publish(core, lookup(8 * (number + 1)), f"v{number}") for number in range(2)]
    batches = [start_batch(core, version, CSV, chunk_rows=8 * ROWS, group_rows=ROWS) for version in versions]
    with running(core):
        for batch in batches:
            wait_until(partial(is_queued, core, batch.id))
    for batch in batches:
        rows = [line.split(b",") for line in batch.output().splitlines()[1:]]
        assert [float(value) for _, value in rows] == [10.0 * float(x) for x, _ in rows]
        assert len(rows) == 60 * ROWS
        tally = core.store.get(batch.id).tally
        assert (tally.succeeded, tally.failed) == (60 * ROWS, 0)
    assert {taken for taken in turns if taken != "slice"} == {f"bulk:{version}" for version in versions}
    assert_clean(core.store)


def test_worker_that_stops_hands_its_chunk_back_and_another_scores_it_whole(core, every_group_a_slice, monkeypatch):
    version = publish(core, lookup(), "lookup")
    batch = start_batch(core, version, CSV, chunk_rows=60 * ROWS, group_rows=ROWS)
    seen: list[int] = []
    serve: Callable[..., Any] = PredictLoop._serve_waiting

    def stopping(self):
        seen.append(1)
        if len(seen) == 5:
            self.stop()
        return serve(self)

    monkeypatch.setattr(PredictLoop, "_serve_waiting", stopping)
    with running(core):
        wait_until(lambda: len(seen) >= 5)
    (chunk,) = batch.jobs()
    assert chunk.status is Status.QUEUED
    assert [line.word for line in chunk.history][-1] == "release"
    with running(core):
        finished(core, *batch.chunks)
    assert batch.output().count(b"\n") == 60 * ROWS + 1


def test_chunk_of_a_canceled_batch_is_left_between_two_slices(core, every_group_a_slice, monkeypatch):
    version = publish(core, lookup(), "lookup")
    batch = start_batch(core, version, CSV, chunk_rows=60 * ROWS, group_rows=ROWS)
    seen: list[int] = []

    def canceling(self):
        seen.append(1)
        if len(seen) == 3:
            core.store.cancel(batch.id)
        if len(seen) >= 3:
            (job,) = [job for job, _ in self.leases._held.values()]
            self.leases._held[job.id] = (job, 0.0)
            self.leases._beat(float("inf"))

    monkeypatch.setattr(PredictLoop, "_serve_waiting", canceling)
    with running(core):
        (chunk,) = finished(core, *batch.chunks)
    assert chunk.status is Status.CANCELED
    assert len(seen) < 60


def test_rows_that_fail_are_told_beside_those_that_succeed(core):
    version = publish(core, lookup(), "lookup")
    content = b"x,note\n1,a\nx,b\n500,c\n3,d\n\n,e\n9\n5,\xc3\xa9\n"
    batch = start_batch(core, version, content)
    with running(core):
        finished(core, *batch.chunks)
    assert batch.output() == "x,note,value\n1,a,10\n3,d,30\n5,é,50\n".encode()
    found = [(error["row"], error["line"], error["column"], error["code"]) for error in batch.errors()]
    assert found == [
        (2, 3, "x", "invalid_input"),
        (3, 4, None, "run_failed"),
        (5, 7, "x", "missing_value"),
        (6, 8, None, "ragged_row"),
    ]
    tally = core.store.get(batch.id).tally
    assert (tally.succeeded, tally.failed) == (3, 4)
    assert json.loads(json.dumps(dict(tally.codes)))["run_failed"] == 1


def test_file_of_a_batch_is_closed_when_no_chunk_of_it_comes_any_more(core, monkeypatch):
    monkeypatch.setattr("workers.batch.chunks._KEPT_S", 0.2)
    version = publish(core, lookup(), "lookup")
    batch = start_batch(core, version, CSV, chunk_rows=8 * ROWS, group_rows=ROWS)
    with running(core) as worker:
        finished(core, *batch.chunks)
        wait_until(lambda: worker.loop._chunks._opened == {})
    assert batch.output().count(b"\n") == 60 * ROWS + 1


def test_files_of_batches_that_take_turns_stay_open_up_to_a_few(core, monkeypatch):
    monkeypatch.setattr("workers.batch.chunks._MOST_OPEN", 2)
    version = publish(core, lookup(), "lookup")
    open_file = mock.Mock(wraps=core.artifacts.open)
    monkeypatch.setattr(core.artifacts, "open", open_file)
    two = [start_batch(core, version, CSV, chunk_rows=8 * ROWS, group_rows=ROWS) for _ in range(2)]
    sources = {batch.plan.source for batch in two}
    with running(core) as worker:
        finished(core, *two[0].chunks, *two[1].chunks)
        opened = [call.args[0] for call in open_file.call_args_list]
        assert sorted(name for name in opened if name in sources) == sorted(sources)
        third = start_batch(core, version, CSV, chunk_rows=8 * ROWS, group_rows=ROWS)
        finished(core, *third.chunks)
        assert len(worker.loop._chunks._opened) == 2
    for batch in (*two, third):
        assert batch.output().count(b"\n") == 60 * ROWS + 1
