"""A batch and its chunks in the store: what a chunk is and is not, when the batch goes on, how both end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from factories import (
    ACCOUNT,
    BULK,
    DAY_MS,
    LEASE_MS,
    QUEUE,
    VERSION,
    WORKER,
    age,
    assert_clean,
    claim_next,
    completion,
    made,
    new_child,
    parked,
    place_of,
    planning,
    state_of,
    submitted,
)

from coatcheck import keys
from coatcheck.audit import audit
from coatcheck.claims import Beat, BeatAnswer, Claimed, Outcome
from coatcheck.errors import MemoryPressure, QueueFull, VersionSuspended
from coatcheck.jobs import Kind, Status, Tally, child_id, id_time_ms, new_id
from coatcheck.listing import PageRequest, read_page
from coatcheck.script_records import in_groups
from coatcheck.store import CHILDREN_AT_ONCE, JobStore

MANY_ROWS = 1000
BATCH = new_id()


@pytest.fixture
def store(redis) -> JobStore:
    return JobStore(redis)


def take_children(store: JobStore, most: int = MANY_ROWS) -> list[Claimed]:
    return store_claims(store, queue=BULK, most_rows=most)


def store_claims(store: JobStore, **changes) -> list[Claimed]:
    return claim_next(store, **changes).jobs


def children_of(batch: Claimed, count: int) -> list[str]:
    return [child_id(batch.id, number) for number in range(count)]


def test_child_ids_are_the_same_each_time_and_sort_with_their_batch():
    parent = new_id()
    ids = [child_id(parent, number) for number in range(1000)]
    assert ids == [child_id(parent, number) for number in range(1000)]
    assert len({parent, *ids}) == 1001
    assert {id_time_ms(one) for one in ids} == {id_time_ms(parent)}
    with pytest.raises(ValueError, match="nothing"):
        child_id("nothing", 0)


# -- what a chunk is -----------------------------------------------------------------------------------------


def test_chunk_is_in_no_list_and_nobodys_open_job(store):
    batch = planning(store, children=3)
    assert store.client.hgetall(keys.OPEN_JOBS) == {ACCOUNT.encode(): b"1"}
    listed = read_page(store, ACCOUNT, PageRequest(kinds=tuple(Kind))).jobs
    assert [job.id for job in listed] == [batch.id]
    job, child = store.get_many([batch.id, child_id(batch.id, 0)])
    assert job is not None
    assert child is not None
    assert (job.children, job.pending, job.planned) == (3, 3, False)
    assert (child.parent, child.account, child.queue) == (batch.id, ACCOUNT, BULK)
    assert_clean(store)


def test_chunks_do_not_meet_the_limit_of_open_jobs(redis):
    store = JobStore(redis, max_open_jobs=1)
    planning(store, children=5)
    assert store.client.zcard(keys.ready(BULK)) == 5
    assert_clean(store)


def test_priority_is_kept_and_changes_no_order(store):
    first = submitted(store)
    second = submitted(store, priority=9)
    job = store.get(second)
    assert job is not None
    assert job.priority == 9
    assert [claim.id for claim in store_claims(store, most_rows=2)] == [first, second]


def test_many_chunks_are_accepted_group_by_group(store):
    batch = planning(store)
    count = 2 * CHILDREN_AT_ONCE + 1
    children = [new_child(batch.id, number) for number in range(count)]
    assert store.submit_children(batch.id, batch.token, children) is BeatAnswer.GO_ON
    assert store.client.zcard(keys.ready(BULK)) == count
    assert_clean(store)


def taken_one_by_one(store: JobStore, count: int) -> list[str]:
    return [claim.id for _ in range(count) for claim in take_children(store, most=1)]


def test_batches_of_one_version_take_turns_from_when_the_later_one_came(store):
    large = planning(store, children=20)
    assert taken_one_by_one(store, 5) == children_of(large, 5)
    age(store.client, 3_600_000)  # however long a chunk takes
    small = planning(store, children=2)
    (a, b), rest = children_of(small, 2), children_of(large, 20)[5:]
    assert taken_one_by_one(store, 6) == [rest[0], rest[1], a, rest[2], b, rest[3]]
    assert_clean(store)


def test_stream_of_small_batches_stops_no_large_one(store):
    large = planning(store, children=30)
    for _ in range(2):
        planning(store, children=1)
    taken = []
    for _ in range(40):  # there are always two that wait, of one chunk each
        taken += taken_one_by_one(store, 1)
        if taken[-1] not in children_of(large, 30):
            planning(store, children=1)
    own = [number for number, one in enumerate(taken) if one in children_of(large, 30)]
    assert [taken[number] for number in own] == children_of(large, 30)[: len(own)]
    assert max(later - before for before, later in pairwise(own)) <= 3
    assert_clean(store)


def test_batch_that_was_planned_in_part_does_not_catch_up(store):
    slow = planning(store, children=1)
    other = planning(store, children=20)
    assert len(taken_one_by_one(store, 10)) == 10
    more = [new_child(slow.id, number) for number in range(6)]  # planned again: one is there already
    assert store.submit_children(slow.id, slow.token, more) is BeatAnswer.GO_ON
    taken = taken_one_by_one(store, 8)
    assert sum(one in children_of(slow, 6) for one in taken) == 4
    assert [one for one in taken if one in children_of(other, 20)] == children_of(other, 20)[9:13]


def test_batch_whose_queue_ran_dry_meanwhile_goes_before_nobody(store):
    slow = planning(store, children=2)
    assert taken_one_by_one(store, 2) == children_of(slow, 2)
    age(store.client, 3_600_000)
    other = planning(store, children=3)
    more = [new_child(slow.id, number) for number in range(6)]
    assert store.submit_children(slow.id, slow.token, more) is BeatAnswer.GO_ON
    taken = taken_one_by_one(store, 6)
    assert [taken.index(one) // 2 for one in children_of(other, 3)] == [0, 1, 2]


def test_chunk_that_is_handed_back_keeps_its_turn(store):
    large = planning(store, children=4)
    age(store.client, 3_600_000)
    small = planning(store, children=2)
    first, second = take_children(store, most=1)[0], take_children(store, most=1)[0]
    assert [first.id, second.id] == children_of(large, 2)
    store.release([(first.id, first.token), (second.id, second.token)])
    assert taken_one_by_one(store, 2) == [first.id, second.id]
    assert children_of(small, 1)[0] in taken_one_by_one(store, 2)
    assert_clean(store)


def test_old_chunk_that_is_handed_back_is_next_and_no_newcomer_goes_before_the_others(store):
    planning(store, children=20)
    (first,) = take_children(store, most=1)
    assert len(taken_one_by_one(store, 9)) == 9
    store.release([(first.id, first.token)])
    small = planning(store, children=5)
    taken = taken_one_by_one(store, 8)
    assert taken[0] == first.id
    assert sum(one in children_of(small, 5) for one in taken) <= 4


def test_chunk_that_the_auditor_puts_back_keeps_its_turn(store):
    large = planning(store, children=4)
    age(store.client, 3_600_000)
    small = planning(store, children=2)
    store.client.zrem(keys.ready(BULK), *children_of(small, 2))
    audit(store, repair=True)
    assert taken_one_by_one(store, 3) == [*children_of(large, 2), children_of(small, 1)[0]]


def test_groups_end_at_their_number_and_at_their_bytes():
    children = [new_child(BATCH, number, input=b"x" * size) for number, size in enumerate((4, 4, 4, 20, 1, 1, 1))]
    sizes = [[len(job.input) for job in group] for group in in_groups(children, most=2, most_bytes=9)]
    assert sizes == [[4, 4], [4], [20], [1, 1], [1]]


def test_plan_made_again_after_a_loss_doubles_nothing(store):
    batch = planning(store, children=3)
    (done,) = take_children(store, most=1)
    store.complete(completion(done))
    store.expire_worker(WORKER)
    (again,) = store_claims(store, kind="io")
    children = [new_child(again.id, number) for number in range(4)]
    assert store.submit_children(again.id, batch.token, children) is BeatAnswer.LOST, "the first planner is late"
    assert store.submit_children(again.id, again.token, children) is BeatAnswer.GO_ON
    job = store.get(again.id)
    assert job is not None
    assert (job.children, job.pending) == (4, 3)
    assert_clean(store)


def test_canceled_batch_accepts_no_more_chunks(store):
    batch = planning(store)
    store.cancel(batch.id)
    assert store.submit_children(batch.id, batch.token, [new_child(batch.id)]) is BeatAnswer.CANCEL
    assert store.client.zcard(keys.ready(BULK)) == 0
    assert store.park(batch.id, batch.token).status is Status.CANCELED
    assert_clean(store)


def test_chunks_that_cannot_be_accepted_are_refused_whole(redis):
    store = JobStore(redis, max_queue_depth=2)
    batch = planning(store)
    three = [new_child(batch.id, number) for number in range(3)]
    with pytest.raises(QueueFull):
        store.submit_children(batch.id, batch.token, three)
    redis.hset(keys.GATES, f"version:{VERSION}", 1)
    with pytest.raises(VersionSuspended):
        store.submit_children(batch.id, batch.token, three[:1])
    redis.hset(keys.GATES, "pressure", 2**50)
    with pytest.raises(MemoryPressure):
        store.submit_children(batch.id, batch.token, three[:1])
    redis.delete(keys.GATES)
    assert redis.exists(keys.ready(BULK)) == 0
    assert_clean(store)


# -- when the batch goes on ----------------------------------------------------------------------------------


def test_last_chunk_puts_the_batch_back_into_its_queue(store):
    batch = parked(store, children=2)
    assert place_of(store, batch.id, "io") == ["waiting"]
    first, second = take_children(store)
    store.complete(completion(first))
    assert (state_of(store, batch.id), store_claims(store, kind="io")) == ("running", [])
    store.complete(completion(second, Status.FAILED))
    assert state_of(store, batch.id) == "queued"
    (claim,) = store_claims(store, kind="io")
    job = store.get(batch.id)
    assert job is not None
    assert (claim.id, claim.attempt, job.planned, job.pending, job.children) == (batch.id, 1, True, 0, 2)
    assert [line.word for line in job.history] == ["submit", "claim", "park", "unpark", "claim"]
    assert store.complete(completion(claim)).status is Status.SUCCEEDED
    assert_clean(store)


def test_batch_without_an_open_chunk_goes_on_at_once(store):
    batch = planning(store, children=1)
    (child,) = take_children(store)
    store.complete(completion(child))
    assert state_of(store, batch.id) == "running", "its planner still holds it"
    assert store.park(batch.id, batch.token).status is Status.QUEUED
    assert store.park(batch.id, batch.token).outcome is Outcome.REPEATED
    assert_clean(store)


def test_old_token_is_fenced_once_the_batch_is_claimed_again(store):
    batch = planning(store)
    store.park(batch.id, batch.token)
    store_claims(store, kind="io")
    assert store.park(batch.id, batch.token).outcome is Outcome.FENCED
    assert store.complete(completion(batch)).outcome is Outcome.FENCED
    assert_clean(store)


def test_chunk_that_loses_its_worker_is_tried_again_and_counted_once(store):
    batch = parked(store)
    for _ in range(3):
        assert len(store_claims(store, queue=BULK, solo_first=True)) == 1
        store.expire_worker(WORKER)
        age(store.client, 20_000)
    assert state_of(store, child_id(batch.id, 0)) == "failed"
    assert state_of(store, batch.id) == "queued"
    assert_clean(store)


def test_batch_past_its_limit_goes_on_with_what_its_chunks_have_done(store):
    batch = planning(store, children=3, limit_ms=30_000)
    done, running = take_children(store, most=2)
    store.complete(completion(done))
    age(store.client, 20_000)
    store.park(batch.id, batch.token)
    age(store.client, 11_000)  # the limit counts from when it was accepted
    assert store.sweep()[1] == 1
    job = store.get(batch.id)
    assert job is not None
    assert (job.status, job.over, job.tally.succeeded) == (Status.QUEUED, True, 1)
    assert take_children(store) == []
    assert store.complete(completion(running)).outcome is Outcome.FENCED, "its lease ran out too"
    (claim,) = store_claims(store, kind="io")
    assert store.complete(completion(claim, Status.FAILED, code="deadline")).status is Status.FAILED
    assert_clean(store)


def test_chunk_that_ends_after_its_batchs_limit_does_not_count(store):
    batch = parked(store, limit_ms=5_000)
    (running,) = take_children(store)
    age(store.client, 6_000)
    store.sweep()
    assert store.complete(completion(running)).status is Status.CANCELED
    assert tally_of(store, batch.id) == Tally()
    assert_clean(store)


# -- how its rows ended --------------------------------------------------------------------------------------


def tally_of(store: JobStore, batch: str) -> Tally:
    job = store.get(batch)
    assert job is not None
    return job.tally


def test_chunk_adds_how_its_rows_ended_in_the_step_that_ends_it_and_once(store):
    batch = parked(store, children=3)
    first, second, third = take_children(store)
    bad = Tally(succeeded=90, failed=10, codes={"invalid_input": 7, "broken_row": 3})
    for _ in range(2):
        store.complete(completion(first, tally=bad))
    store.complete(completion(second, tally=Tally(succeeded=100)))
    assert tally_of(store, batch.id) == Tally(succeeded=190, failed=10, codes={"invalid_input": 7, "broken_row": 3})
    store.expire_worker(WORKER)
    assert store.complete(completion(third, tally=bad)).outcome is Outcome.FENCED
    (again,) = take_children(store)
    store.complete(completion(again, tally=bad))
    assert tally_of(store, batch.id) == Tally(succeeded=280, failed=20, codes={"invalid_input": 14, "broken_row": 6})
    assert_clean(store)


def test_rows_of_a_chunk_that_failed_as_a_whole_failed_with_its_code(store):
    batch = planning(store)
    store.submit_children(batch.id, batch.token, [new_child(batch.id, n, rows=256, max_attempts=1) for n in range(2)])
    store.park(batch.id, batch.token)
    (failed,) = take_children(store, most=256)
    store.complete(completion(failed, Status.FAILED))
    take_children(store)
    store.expire_worker(WORKER)
    assert tally_of(store, batch.id) == Tally(failed=512, codes={"bad_input": 256, "lost_too_often": 256})
    assert state_of(store, batch.id) == "queued"


def test_rows_of_canceled_chunks_count_as_nothing(store):
    batch = planning(store, children=2)
    first, second = take_children(store)
    store.complete(completion(first, tally=Tally(succeeded=5)))
    store.cancel(batch.id)
    assert store.complete(completion(second, tally=Tally(succeeded=5))).status is Status.CANCELED
    assert tally_of(store, batch.id) == Tally(succeeded=5)


# -- how both end --------------------------------------------------------------------------------------------


def test_cancel_of_a_waiting_batch_ends_its_chunks_canceled(store):
    batch = parked(store, children=3)
    running, other = take_children(store, most=2)
    assert store.cancel(batch.id) is Status.CANCELING
    assert store.heartbeat([Beat(id=running.id, token=running.token)], LEASE_MS) == [BeatAnswer.CANCEL]
    assert store.complete(completion(running)).status is Status.CANCELED
    store.release([(other.id, other.token)])
    assert take_children(store) == []
    assert [state_of(store, child) for child in children_of(batch, 3)] == ["canceled"] * 3
    (again,) = store_claims(store, kind="io")
    assert store.complete(completion(again, output=b'{"total": 3}')).status is Status.CANCELED
    job = store.get(batch.id)
    assert job is not None
    assert job.output == b'{"total": 3}', "what was put together is told"
    assert store.client.hgetall(keys.OPEN_JOBS) == {}
    assert_clean(store)


def test_cancel_while_planning_ends_what_was_planned(store):
    batch = planning(store, children=2)
    assert store.cancel(batch.id) is Status.CANCELING
    assert take_children(store) == []
    assert [state_of(store, child) for child in children_of(batch, 2)] == ["canceled"] * 2
    assert store.park(batch.id, batch.token).status is Status.QUEUED, "what they have done is put together"
    (again,) = store_claims(store, kind="io")
    assert state_of(store, batch.id) == "canceling"
    store.expire_worker(WORKER)
    (again,) = store_claims(store, kind="io")
    store.release([(again.id, again.token)])
    (again,) = store_claims(store, kind="io")
    assert store.complete(completion(again)).status is Status.CANCELED
    assert_clean(store)


def test_canceled_batch_that_keeps_losing_its_worker_ends_canceled(store):
    batch = parked(store, max_attempts=2)
    store.cancel(batch.id)
    for _ in range(2):
        assert len(store_claims(store, kind="io")) == 1
        store.expire_worker(WORKER)
    assert state_of(store, batch.id) == "canceled"
    assert_clean(store)


def test_output_of_a_chunk_is_kept_while_its_batch_is_open(store):
    batch = parked(store, children=2, limit_ms=5 * DAY_MS)
    first, _second = take_children(store)
    store.complete(completion(first, output_ref="outputs/one"))
    age(store.client, 2 * DAY_MS)
    for pressure in (False, True):
        assert store.gc(pressure=pressure) == []
    store.cancel(batch.id)
    (again,) = store_claims(store, kind="io")
    store.complete(completion(again))
    age(store.client, 11 * 60_000)
    assert (first.id, "", "outputs/one") in store.gc()
    assert store.tombstone(first.id) is None
    assert_clean(store)


# -- who works on chunks -------------------------------------------------------------------------------------


def test_bulk_queues_are_named_but_not_taken_unasked(store):
    parked(store)
    reply = claim_next(store)
    assert (reply.queue, reply.other_queues, reply.jobs) == ("", [BULK], [])
    assert store.tick("predict") == 1


def test_waiting_prediction_goes_before_a_named_bulk_queue_unless_it_is_its_turn(store):
    parked(store, children=2)
    prediction = submitted(store)
    reply = claim_next(store, queue=BULK)
    assert (reply.queue, [claim.id for claim in reply.jobs], reply.other_queues) == (QUEUE, [prediction], [BULK])
    submitted(store)
    reply = claim_next(store, queue=BULK, bulk_turn=True)
    assert (reply.queue, len(reply.jobs), reply.other_queues) == (BULK, 1, [QUEUE])
    assert_clean(store)


# -- the auditor ---------------------------------------------------------------------------------------------

PLANTED: dict[str, Callable[[JobStore, str], object]] = {
    "one open chunk too many counted": lambda store, batch: store.client.hincrby(keys.job(batch), "pending", 1),
    "one open chunk not counted": lambda store, batch: store.client.hincrby(keys.job(batch), "pending", -1),
    "no open chunk counted": lambda store, batch: store.client.hdel(keys.job(batch), "pending"),
    "not among those that wait": lambda store, batch: store.client.zrem(keys.WAITING, batch),
    "a lease that nobody has": lambda store, batch: store.client.zadd(keys.LEASES, {batch: 2**50}),
    "a queue nobody looks at": lambda store, batch: store.client.delete(keys.busy("bulk")),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_violation_of_a_batch_is_seen_and_repaired(store, what):
    batch = parked(store, children=2)
    PLANTED[what](store, batch.id)
    found = audit(store)
    assert {violation.invariant for violation in found} <= {"I1", "I3", "I8", "I10"}
    assert found
    assert audit(store, repair=True) == found
    assert audit(store) == []
    assert len(take_children(store)) == 2, "its chunks are where they were"


def test_repair_lets_a_batch_go_on_whose_chunks_have_all_ended(store):
    batch = parked(store)
    (child,) = take_children(store)
    store.client.hincrby(keys.job(batch.id), "pending", 1)
    store.complete(completion(child))
    assert state_of(store, batch.id) == "running"
    assert {violation.invariant for violation in audit(store, repair=True)} == {"I10"}
    assert state_of(store, batch.id) == "queued"
    assert audit(store) == []


def test_ended_batch_that_counts_open_chunks_is_seen_and_repaired(store):
    job = made(store, "succeeded")
    store.client.hset(keys.job(job.id), "pending", 2)
    assert [violation.invariant for violation in audit(store, repair=True)] == ["I10"]
    assert audit(store) == []
