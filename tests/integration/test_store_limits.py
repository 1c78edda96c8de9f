"""Limits and recovery of the job store: what is refused and why, how losses are counted, what is kept how long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py
from factories import (
    ACCOUNT,
    DAY_MS,
    HOUR_MS,
    LEASE_MS,
    QUEUE,
    VERSION,
    WORKER,
    age,
    assert_clean,
    claim_next,
    claimed,
    completion,
    idempotency,
    made,
    new_job,
    place_of,
    server_ms,
    state_of,
    submitted,
)

from coatcheck import keys
from coatcheck.embedded_redis import embedded_redis
from coatcheck.errors import (
    IdempotencyMismatch,
    MemoryPressure,
    QueueFull,
    StoreUnavailable,
    TooManyOpenJobs,
    VersionSuspended,
)
from coatcheck.jobs import Kind, Status, new_id
from coatcheck.store import JobStore

HOOK = "https://example.test/hook"


@pytest.fixture
def store(redis) -> JobStore:
    return JobStore(redis)


def in_turn(store: JobStore, *jobs: dict[str, Any]) -> list[str]:
    """Ids of jobs submitted at different milliseconds."""
    ids = []
    for job in jobs:
        ids.append(submitted(store, **job))
        age(store.client, 5)
    return ids


def due_in(store: JobStore, job_id: str) -> float:
    """Milliseconds until a delayed job is due."""
    score = store.client.zscore(keys.DELAYED, job_id)
    assert score is not None, "the job is not delayed"
    return float(score) - server_ms(store.client)


# -- what is refused -----------------------------------------------------------------------------------------------


def test_full_queue_refuses_and_takes_again_when_a_job_has_left(redis):
    store = JobStore(redis, max_queue_depth=2)
    submitted(store)
    submitted(store)
    with pytest.raises(QueueFull) as refused:
        submitted(store)
    assert refused.value.retry_after_s
    submitted(store, queue="predict:other")  # another queue has its own depth
    claim_next(store, queue=QUEUE)
    submitted(store)
    assert_clean(store)


def test_account_at_its_limit_is_refused_alone(redis):
    store = JobStore(redis, max_open_jobs=2)
    claim = claimed(store)
    submitted(store)
    with pytest.raises(TooManyOpenJobs):
        submitted(store)
    submitted(store, account="bob")
    store.complete(completion(claim))
    submitted(store)
    assert_clean(store)


def test_refused_job_leaves_nothing_behind(redis):
    store = JobStore(redis, max_queue_depth=1)
    submitted(store)
    job = new_job(idempotency=idempotency("key"))
    before = sorted(redis.keys("*"))
    with pytest.raises(QueueFull):
        store.submit(job)
    assert sorted(redis.keys("*")) == before
    claim_next(store)
    assert store.submit(job).created, "the key of a refused request is not used up"


def test_pressure_gate_refuses_until_its_time_is_over(store):
    store.client.hset(keys.GATES, "pressure", server_ms(store.client) + 10_000)
    with pytest.raises(MemoryPressure):
        submitted(store)
    age(store.client, 10_001)
    submitted(store)


def test_one_key_means_one_job_while_its_record_is_kept(store):
    first = store.submit(new_job(idempotency=idempotency("key")))
    again = store.submit(new_job(idempotency=idempotency("key")))
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(IdempotencyMismatch):
        store.submit(new_job(idempotency=idempotency("key", "another body")))
    assert store.accepted_before(idempotency("key")) == first.id
    with pytest.raises(IdempotencyMismatch):
        store.accepted_before(idempotency("key", "another body"))
    store.complete(completion(claim_next(store).jobs[0]))
    assert store.submit(new_job(idempotency=idempotency("key"))).id == first.id
    age(store.client, DAY_MS + 1000)
    store.gc()
    assert store.accepted_before(idempotency("key")) is None
    assert store.client.keys("*idem*") == [], "a key lives no longer than its record"
    assert store.submit(new_job(idempotency=idempotency("key"))).created


def fill(store: JobStore, job: dict[str, Any]) -> list[str]:
    """Submit until Redis is full."""
    accepted: list[str] = []
    with contextlib.suppress(MemoryPressure):
        while True:
            accepted += [submitted(store, **job)]
    return accepted


def test_full_redis_refuses_submits_whole_while_the_rest_goes_on(tmp_path):
    limit = 16 * 1024**2
    with (
        embedded_redis(tmp_path / "redis", memory_bytes=limit, appendfsync="no") as url,
        redis_py.Redis.from_url(url) as client,
    ):
        store = JobStore(client)
        job = {"input": b"x" * 10_000, "webhook": HOOK}
        claim = claimed(store, **job)
        accepted = fill(store, job)
        refused = new_job(**job)
        with pytest.raises(MemoryPressure):
            store.submit(refused)
        assert store.get(refused.id) is None
        client.script_flush()  # even the scripts themselves must be sent again
        assert [str(answer) for answer in store.heartbeat([], LEASE_MS)] == []
        assert str(store.complete(completion(claim)).outcome) == "done"
        held = claim_next(store, most_rows=3).jobs
        assert store.release([(held[0].id, held[0].token)]) == 1
        assert str(store.retry(held[1].id, held[1].token, code="c", error="e", backoff_ms=0).outcome) == "done"
        assert store.expire_worker(WORKER) == 1
        assert store.cancel(accepted[-1]) is Status.CANCELED
        assert store.tick("predict") == 1
        (event, token, *_rest) = store.outbox_lease(1, 60_000)[0]
        assert store.outbox_ack(event, token)
        age(client, DAY_MS + 1000)
        store.sweep(10_000)
        age(client, DAY_MS + 1000)
        for event, token, *_ in store.outbox_lease(10_000, 60_000):
            assert store.outbox_ack(event, token)
        assert len(store.gc(limit=10_000)) == len(accepted) + 1
        assert_clean(store)
        submitted(store, **job)


def test_redis_that_may_not_write_is_unavailable_and_takes_again_later(store):
    try:
        store.client.execute_command("REPLICAOF", "127.0.0.1", "1")  # a replica of nobody: read-only
        with pytest.raises(StoreUnavailable):
            submitted(store)
    finally:
        store.client.execute_command("REPLICAOF", "NO", "ONE")
    submitted(store)
    assert_clean(store)


# -- losses --------------------------------------------------------------------------------------------------------


def test_first_loss_is_tried_again_at_once_and_alone_later_ones_wait_longer(store):
    claim = claimed(store, max_attempts=5)
    assert store.expire_worker(WORKER) == 1
    assert place_of(store, claim.id) == ["solo", "ttl"]
    waits = []
    for attempt in (2, 3, 4):
        (again,) = claim_next(store).jobs
        assert again.attempt == attempt
        store.expire_worker(WORKER)
        waits.append(due_in(store, claim.id))
        age(store.client, int(waits[-1]) + 1)
    assert [round(wait / 1000) for wait in waits] == [5, 10, 20]
    assert_clean(store)


def test_job_that_kills_its_worker_is_given_up_after_exactly_three_attempts(store):
    job_id = submitted(store)
    for attempt in (1, 2, 3):
        (claim,) = claim_next(store).jobs
        assert (claim.id, claim.attempt) == (job_id, attempt)
        assert state_of(store, job_id) == "running"
        age(store.client, LEASE_MS + 1)
        store.sweep()
        age(store.client, 5001)
    job = store.get(job_id)
    assert job is not None
    assert (job.status, job.code, job.attempts) == (Status.FAILED, "lost_too_often", 3)
    assert "3 times" in job.error
    assert [line.word for line in job.history] == ["submit", "claim", "sweep", "claim", "sweep", "claim", "sweep"]
    assert claim_next(store).jobs == []
    assert_clean(store)


def test_batch_mates_of_a_deadly_job_lose_one_attempt_at_most(store):
    ids = [submitted(store) for _ in range(8)]
    assert len(claim_next(store, most_rows=8).jobs) == 8
    store.expire_worker(WORKER)
    seen = []
    while reply := claim_next(store, most_rows=8).jobs:
        assert len(reply) == 1, "what was lost once is claimed alone"
        seen.append(reply[0].id)
        store.complete(completion(reply[0]))
    assert seen == sorted(ids)
    assert all(job is not None and job.attempts == 2 for job in store.get_many(ids))


def test_only_the_dead_workers_jobs_are_taken_from_it(store):
    names = ("predict@host-1/1", "predict@host-1/11", "predict@host-11/1")
    ids = [submitted(store) for _ in names]
    held = {name: claim_next(store, worker=name).jobs[0].id for name in names}
    assert store.expire_worker("predict@host-1/11") == 1
    assert store.expire_worker("predict@host-1/") == 1
    assert [state_of(store, held[name]) for name in names] == ["queued", "queued", "running"]
    assert sorted(held.values()) == sorted(ids)


def kill_off(store: JobStore, queue: str = QUEUE, kind: Kind = Kind.PREDICTION) -> None:
    """One job that is lost once too often."""
    submitted(store, max_attempts=1, queue=queue, kind=kind)
    claim_next(store, queue=queue, kind=queue.partition(":")[0])
    assert store.expire_worker(WORKER) == 1


def test_version_with_three_deadly_jobs_in_ten_minutes_is_suspended_until_resumed(store):
    kill_off(store)
    kill_off(store)
    waiting = submitted(store)
    store.cancel(waiting)
    kill_off(store)
    with pytest.raises(VersionSuspended):
        submitted(store)
    submitted(store, queue="predict:other", version="other")
    assert store.resume_version(VERSION)
    assert not store.resume_version(VERSION)
    kill_off(store)  # counting begins anew
    submitted(store)
    assert_clean(store)


def test_deadly_jobs_further_apart_than_ten_minutes_suspend_nothing(store):
    for _ in range(4):
        kill_off(store)
        age(store.client, 301_000)
    submitted(store)


def test_deadly_trainings_suspend_no_base_model(store):
    for _ in range(4):
        kill_off(store, queue="train", kind=Kind.TRAINING)
    assert store.client.hlen(keys.GATES) == 0
    submitted(store, queue="train", kind=Kind.TRAINING)


def test_released_job_keeps_its_place_and_its_attempt(store):
    ids = in_turn(store, {}, {}, {})
    (first,) = claim_next(store).jobs
    store.release([(first.id, first.token)])
    assert [claim.id for claim in claim_next(store, most_rows=3).jobs] == ids
    assert all(job is not None and job.attempts == 1 for job in store.get_many(ids))


def test_waiting_again_starts_a_queue_ttl_of_its_own(store):
    claim = claimed(store, queue_ttl_ms=HOUR_MS)
    for _ in range(3):  # it runs for longer than its queue TTL
        age(store.client, HOUR_MS)
        store.heartbeat([], LEASE_MS)
    store.release([(claim.id, claim.token)])
    assert store.sweep() == (0, 0, 0)
    assert state_of(store, claim.id) == "queued"
    age(store.client, HOUR_MS + 1)
    assert store.sweep() == (0, 1, 0)
    job = store.get(claim.id)
    assert job is not None
    assert (job.status, job.code) == (Status.EXPIRED, "expired")
    assert_clean(store)


def test_claim_passes_over_many_expired_jobs(store):
    for _ in range(20):
        submitted(store, queue_ttl_ms=1000)
    fresh = submitted(store)
    age(store.client, 2000)
    assert [claim.id for claim in claim_next(store, most_rows=4).jobs] == [fresh]
    assert_clean(store)


# -- micro-batches -------------------------------------------------------------------------------------------------


def test_claim_stops_at_its_rows_and_its_bytes_but_takes_one_in_any_case(store):
    big = b"x" * 5000
    ids = in_turn(store, *[{"input": big, "rows": rows} for rows in (9, 3, 4, 1)])
    assert [claim.id for claim in claim_next(store, most_rows=8).jobs] == ids[:1]
    assert [claim.id for claim in claim_next(store, most_rows=7, most_bytes=12_000).jobs] == ids[1:3]
    submitted(store, input=big)
    assert [claim.id for claim in claim_next(store, most_rows=8, most_bytes=6000).jobs] == ids[3:]


def test_claim_counts_the_bytes_of_inputs_in_storage_too(store):
    ids = in_turn(store, *[{"input": b"", "input_ref": "inputs/x", "stored_bytes": 5000}] * 3)
    assert [claim.id for claim in claim_next(store, most_rows=8, most_bytes=12_000).jobs] == ids[:2]


def test_claim_without_a_queue_takes_the_one_that_waits_longest(store):
    submitted(store, queue="predict:b")
    age(store.client, 10)
    submitted(store, queue="predict:a")
    reply = claim_next(store)
    assert (reply.queue, reply.other_queues) == ("predict:b", ["predict:a"])
    assert claim_next(store).queue == "predict:a"
    assert claim_next(store).queue == ""


def test_submit_rings_once_until_a_claim_has_looked(store):
    for _ in range(5):
        submitted(store)
    assert store.client.lrange(keys.wake("predict"), 0, -1) == [QUEUE.encode()]
    assert 0 < int(store.client.pttl(keys.bell(QUEUE))) <= 3000
    claim_next(store)
    assert not store.client.exists(keys.bell(QUEUE))
    submitted(store)
    assert store.client.llen(keys.wake("predict")) == 2
    store.client.delete(keys.wake("predict"), keys.bell(QUEUE))  # every hint is lost
    assert store.tick("predict") == 1
    assert store.client.lrange(keys.wake("predict"), 0, -1) == [QUEUE.encode()]


# -- keeping -------------------------------------------------------------------------------------------------------


def test_deleted_job_leaves_a_tombstone_that_tells_how_it_ended(store):
    job = made(store, "failed")
    assert store.gc() == []
    age(store.client, DAY_MS + 1)
    ((deleted, input_ref, output_ref),) = store.gc()
    assert (deleted, input_ref, output_ref) == (job.id, "", "")
    tomb = store.tombstone(job.id)
    assert tomb is not None
    assert (tomb[0], tomb[2]) == (Status.FAILED, ACCOUNT)
    assert store.client.zcard(keys.jobs_of(ACCOUNT, Kind.PREDICTION)) == 0
    assert_clean(store)


def test_tombstones_are_bounded(store, monkeypatch):
    monkeypatch.setattr("coatcheck.store.TOMBSTONES_KEPT", 3)
    for _ in range(5):
        store.cancel(submitted(store, keep_ms=0))
        store.gc()
    assert store.client.hlen(keys.TOMBSTONES) == 3
    assert store.client.llen(keys.PREFIX + "tomb_order") == 3


def test_pressure_deletes_the_oldest_first_and_none_younger_than_ten_minutes(store):
    ids = []
    for _ in range(3):
        ids.append(made(store, "succeeded").id)
        age(store.client, 301_000)
    running = made(store, "running").id
    assert [entry[0] for entry in store.gc(pressure=True, limit=1)] == ids[:1]
    assert [entry[0] for entry in store.gc(pressure=True)] == ids[1:2]
    assert store.gc(pressure=True) == []
    assert state_of(store, running) == "running"
    assert_clean(store)


def test_gc_names_the_artifacts_of_what_it_deletes(store):
    claim = claimed(store, input=b"", input_ref="inputs/a", keep_ms=0)
    store.complete(completion(claim, output=b"", output_ref="outputs/b"))
    assert store.gc() == [(claim.id, "inputs/a", "outputs/b")]


def test_success_drops_the_input_and_every_other_end_keeps_it(store):
    for state, kept in (("succeeded", False), ("failed", True), ("canceled", True), ("expired", True)):
        store.client.flushall()
        job = store.get(made(store, state).id)
        assert job is not None
        assert (job.input is not None) == kept, state


def test_training_tells_what_its_version_was_made_of_though_it_succeeded(store):
    submitted(store, kind=Kind.TRAINING, queue="train", input=b'{"dataset": "f"}')
    (claim,) = claim_next(store, kind="train").jobs
    store.complete(completion(claim))
    job = store.get(claim.id)
    assert job is not None
    assert (job.status, job.input) == (Status.SUCCEEDED, b'{"dataset": "f"}')


def test_history_keeps_its_first_line_and_the_newest_nine(store):
    job_id = submitted(store)
    for _ in range(7):
        (claim,) = claim_next(store).jobs
        store.release([(claim.id, claim.token)])
    job = store.get(job_id)
    assert job is not None
    assert [line.word for line in job.history] == ["submit", "release", *["claim", "release"] * 4]
    assert [line.at_ms for line in job.history] == sorted(line.at_ms for line in job.history)
    assert job.history[1].worker == WORKER


# -- telling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "told"), [("", True), ("completed", True), ("start,completed", True), ("start", False)]
)
@pytest.mark.parametrize("state", ["succeeded", "failed", "canceled", "expired"])
def test_event_is_written_with_the_end_if_the_client_asked_for_it(store, state, events, told):
    job = made(store, state, webhook=HOOK, webhook_events=events)
    rows = store.outbox_lease(10, 60_000)
    wanted = (f"evt_{job.id}_completed", job.id, HOOK, state)
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [wanted] * told
    record = store.get(job.id)
    assert record is not None
    assert record.webhook_status == ("pending" if told else "")


def test_job_without_a_webhook_leaves_no_event(store):
    made(store, "succeeded")
    assert store.client.zcard(keys.OUTBOX) == 0


def test_record_outlives_its_time_until_its_event_is_handed_over_or_given_up_after_76_hours(store):
    job = made(store, "succeeded", webhook=HOOK)
    age(store.client, DAY_MS + 1)
    store.gc()
    store.gc(pressure=True)
    assert store.get(job.id) is not None, "what is told is made from it"
    ((event, token, *_),) = store.outbox_lease(10, 60_000)
    assert store.outbox_nack(event, token, next_ms=HOUR_MS, max_tries=10)
    assert store.outbox_lease(10, 60_000) == []
    age(store.client, HOUR_MS)
    ((_event, second, *_),) = store.outbox_lease(10, 60_000)
    assert not store.outbox_ack(event, token), "the first lease is over"
    assert store.outbox_ack(event, second)
    age(store.client, HOUR_MS)
    store.gc()
    assert store.get(job.id) is None
    made(store, "succeeded", webhook=HOOK, keep_ms=30 * DAY_MS)
    age(store.client, 77 * HOUR_MS)
    store.gc()
    assert store.client.zcard(keys.OUTBOX) == 0
    assert store.client.keys("*evt:*") == []
    assert_clean(store)


def test_last_failed_delivery_is_written_to_the_job(store):
    job = made(store, "succeeded", webhook=HOOK)
    for _ in range(2):
        ((event, token, *_),) = store.outbox_lease(1, 60_000)
        assert store.outbox_nack(event, token, next_ms=0, max_tries=2)
    record = store.get(job.id)
    assert record is not None
    assert record.webhook_status == "failed"
    assert_clean(store)


@pytest.fixture
def heard(redis) -> Iterator[redis_py.client.PubSub]:
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("web-1")
        assert listener.get_message(timeout=5) is None  # the subscription itself
        yield listener


def messages(listener: redis_py.client.PubSub, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count and (message := listener.get_message(timeout=5)):
        found.append(message["data"].decode().partition(" ")[0])
    assert listener.get_message(timeout=0.05) is None, "nothing more was told"
    return found


def test_waiter_hears_the_end_and_nothing_else(store, heard):
    claim = claimed(store, wait_channel="web-1")
    store.heartbeat([], LEASE_MS)
    store.complete(completion(claim))
    assert messages(heard, 1) == [claim.id]


def test_follower_hears_every_change(store, heard):
    job_id = submitted(store)
    for _ in range(2):
        store.watch(job_id, "web-1", follow=True)
    (claim,) = claim_next(store).jobs
    store.cancel(job_id)
    store.complete(completion(claim))
    assert messages(heard, 3) == [job_id] * 3


def test_watching_an_ended_or_unknown_job_answers_and_writes_nothing(store):
    job = made(store, "succeeded")
    assert store.watch(job.id, "web-1") is Status.SUCCEEDED
    assert store.watch(new_id(), "web-1") is None
    assert store.client.hexists(keys.job(job.id), "wait") is False
