"""Records in Redis with a sealer: what goes in comes out, what lies there tells nothing, what was changed says so."""

from __future__ import annotations

import pytest
import redis as redis_py
from factories import claim_next, claimed, completion, idempotency, new_job, planning, submitted
from keyrings import NEW, OLD, signature_with, store_under
from marker_scan import scan_redis

from coatcheck import keys
from coatcheck.artifacts import ArtifactStore
from coatcheck.claims import Beat, Event, Publication
from coatcheck.deliveries import Attempt, Deliveries, NewDelivery, Pace, Verdict
from coatcheck.encryption import Keyring
from coatcheck.errors import ArtifactDamaged
from coatcheck.job_events import read_events
from coatcheck.jobs import Kind, Status
from coatcheck.registry import Registry
from coatcheck.resealing import PLAIN, values_by_key
from coatcheck.rotation import rotate
from coatcheck.sealed_values import Sealer
from coatcheck.store import JobStore

MARKER = "planted-marker-42d1"
INPUT = b'{"x": "planted-marker-42d1"}'
SIGNATURE = signature_with(MARKER)


@pytest.fixture
def store(redis: redis_py.Redis) -> JobStore:
    return store_under(redis, OLD)


def test_a_prediction_is_sealed_from_its_submit_to_its_end(store: JobStore, redis: redis_py.Redis) -> None:
    claim = claimed(store, input=INPUT)
    assert store.input_of(claim) == INPUT
    found = store.get(claim.id)
    assert found is not None
    assert found.input == INPUT
    assert scan_redis(redis, [MARKER]) == []
    store.complete(completion(claim, output=INPUT))
    (done,) = store.get_many([claim.id])
    assert done is not None
    assert done.output == INPUT
    assert scan_redis(redis, [MARKER]) == []


def test_a_job_in_a_workers_hand_is_sealed_too(store: JobStore, redis: redis_py.Redis) -> None:
    claim_next(store, idle_ms=60_000)
    job_id = submitted(store, input=INPUT)
    assert scan_redis(redis, [MARKER]) == []
    (claim,) = claim_next(store, named_idle=True).jobs
    assert claim.id == job_id
    assert store.input_of(claim) == INPUT


def test_sentences_progress_events_and_chunks_are_sealed(store: JobStore, redis: redis_py.Redis) -> None:
    claim = planning(store, children=1, input=INPUT)
    beat = Beat(id=claim.id, token=claim.token, progress=f'"{MARKER}"', events=(Event(name="log", data=MARKER),))
    store.heartbeat([beat], 10_000)
    job = store.get(claim.id)
    assert job is not None
    assert job.progress == f'"{MARKER}"'.encode()
    assert [event.data for event in read_events(store, job) if event.name == "log"] == [MARKER.encode()]
    store.retry(claim.id, claim.token, code="passing", error=MARKER, backoff_ms=0)
    other = claimed(store, input=INPUT)
    store.complete(completion(other, Status.FAILED, error=MARKER))
    failed = store.get(other.id)
    assert failed is not None
    assert (failed.code, failed.error) == ("bad_input", MARKER)
    assert scan_redis(redis, [MARKER]) == []


def test_the_same_key_and_body_find_the_job_made_before(store: JobStore) -> None:
    first = store.submit(new_job(input=INPUT, idempotency=idempotency("k")))
    again = store.submit(new_job(input=INPUT, idempotency=idempotency("k")))
    assert (again.id, again.created) == (first.id, False)


def test_a_changed_value_or_another_jobs_is_told_and_harms_no_other(store: JobStore, redis: redis_py.Redis) -> None:
    first, second = submitted(store, input=INPUT), submitted(store, input=INPUT)
    redis.hset(keys.job(first), "in", redis.hget(keys.job(second), "in") or b"")
    with pytest.raises(ArtifactDamaged, match=first):
        store.get(first)
    claims = claim_next(store, most_rows=2).jobs
    assert {claim.id for claim in claims} == {first, second}
    for claim in claims:
        if claim.id == first:
            with pytest.raises(ArtifactDamaged):
                store.input_of(claim)
        else:
            assert store.input_of(claim) == INPUT


def test_what_was_plain_before_there_were_keys_is_read(store: JobStore, redis: redis_py.Redis) -> None:
    job_id = submitted(JobStore(redis), input=INPUT)
    found = store.get(job_id)
    assert found is not None
    assert found.input == INPUT
    assert store.input_of(claim_next(store).jobs[0]) == INPUT
    assert values_by_key(redis)[PLAIN] == 1


def test_a_deliverys_body_and_what_was_answered_are_sealed(redis: redis_py.Redis) -> None:
    deliveries = Deliveries(redis, Sealer(Keyring([OLD])))
    new = NewDelivery(
        id="d1", account="ann", endpoint="", event="e1", type="t", job="", url="http://h", receiver="h:80", body=INPUT
    )
    assert deliveries.add(new, once=True)
    pace = Pace(lease_ms=10_000, failing_ms=10**9, most_per_receiver=2)
    (leased,) = deliveries.lease("io", pace, most=1)
    assert deliveries.body_of(leased) == INPUT
    attempt = Attempt(at_ms=1, status=500, ms=1, answer=f"you sent {MARKER}")
    deliveries.report(leased, Verdict(word="failed", attempt=attempt, code="status"), pace)
    assert deliveries.get("ann", "d1").attempts[0].answer == f"you sent {MARKER}"
    assert scan_redis(redis, [MARKER]) == []


@pytest.mark.parametrize("sealed", [False, True])
def test_an_answer_with_any_end_of_line_does_not_break_the_log(redis: redis_py.Redis, sealed: bool) -> None:
    deliveries = Deliveries(redis, Sealer(Keyring([OLD])) if sealed else None)
    new = NewDelivery(id="d1", account="ann", endpoint="", event="e", type="t", job="", url="http://h", receiver="h:80")
    deliveries.add(new, once=True)
    pace = Pace(lease_ms=10_000, failing_ms=10**9, most_per_receiver=2)
    (leased,) = deliveries.lease("io", pace, most=1)
    answer = "a\u2028b\x85c\nd\x0ce"
    attempt = Attempt(at_ms=1, status=500, ms=1, answer=answer)
    deliveries.report(leased, Verdict(word="failed", attempt=attempt, code="status"), pace)
    assert [one.answer for one in deliveries.get("ann", "d1").attempts] == [answer]


def test_what_a_version_tells_is_sealed_and_follows_the_newest_key(
    store: JobStore, redis: redis_py.Redis, tmp_path: object
) -> None:
    job_id = store.submit(new_job(kind=Kind.TRAINING, queue="train", input=INPUT)).id
    (claim,) = claim_next(store, kind="train").jobs
    assert claim.id == job_id
    version, metrics = "e" * 64, f'{{"example": "{MARKER}"}}'
    publication = Publication(
        owner="ann",
        name="own",
        version_id=version,
        prefix="runs/x/1",
        signature=SIGNATURE.to_json().decode(),
        metrics=metrics,
    )
    store.complete(completion(claim, publication=publication))
    assert scan_redis(redis, [MARKER]) == []
    keyring = Keyring([NEW, OLD])
    for sealer in (store.sealer, Sealer(keyring)):
        found = Registry(redis, sealer).find_version(version)
        assert found is not None
        assert found.metrics == metrics
        assert found.signature is not None
        assert found.signature.classes == (MARKER, "other")
    done = rotate(ArtifactStore(f"file://{tmp_path}/root", keyring), redis, [])
    assert done.values == 4  # the training's input is one
    assert values_by_key(redis)[keyring.newest.hex()] == 4
    again = Registry(redis, Sealer(Keyring([NEW]))).find_version(version)
    assert again is not None
    assert again.metrics == metrics
    assert scan_redis(redis, [MARKER]) == []
