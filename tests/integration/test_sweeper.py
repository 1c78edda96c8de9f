"""The housekeeping every process does: leases end, records go with their files, submits stop before memory is full."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_versions
from factories import (
    DAY_MS,
    LEASE_MS,
    age,
    assert_clean,
    claim_next,
    claim_request,
    claimed,
    completion,
    new_job,
    place_of,
    state_of,
    submitted,
)

from coatcheck import keys, liveness
from coatcheck.artifacts import ArtifactStore
from coatcheck.claims import Beat, Completion
from coatcheck.core import Core, open_core
from coatcheck.embedded_redis import embedded_redis
from coatcheck.errors import MemoryPressure
from coatcheck.jobs import Status, new_id
from coatcheck.settings import Settings
from coatcheck.skipping import MOST_IN_A_ROW
from coatcheck.store import JobStore
from coatcheck.sweeper import Sweeper
from workers.io import remove_left_behind

HOUR_MS = 3600 * 1000


@pytest.fixture
def core(redis, settings: Settings) -> Iterator[Core]:
    opened = open_core(settings)
    yield opened
    opened.store.client.close()


@pytest.fixture
def store(core: Core) -> JobStore:
    return core.store


@pytest.fixture
def artifacts(core: Core) -> ArtifactStore:
    return core.artifacts


@pytest.fixture
def sweeper(store: JobStore, artifacts: ArtifactStore) -> Sweeper:
    return Sweeper(store, artifacts)


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_lease_that_ran_out_ends_within_two_seconds_without_anybody_asking(store, sweeper):
    claim = claimed(store)
    sweeper.start()
    try:
        age(store.client, LEASE_MS + 1)
        began = time.monotonic()
        wait_until(lambda: state_of(store, claim.id) == "queued")
        assert time.monotonic() - began < 20.0
    finally:
        sweeper.stop()
    assert place_of(store, claim.id) == ["solo", "ttl"]
    assert_clean(store)


def test_late_report_of_a_swept_claim_is_fenced(store, sweeper):
    claim = claimed(store)
    age(store.client, LEASE_MS + 1)
    sweeper.sweep_once()
    (successor,) = claim_next(store).jobs
    assert store.complete(completion(claim)).outcome == "fenced"
    assert store.complete(completion(successor)).outcome == "done"
    assert int(store.client.hget("q:{c}:cnt", "fenced") or 0) == 1


def test_many_sweepers_end_a_lease_once(store, artifacts):
    claims = [claimed(store) for _ in range(30)]
    age(store.client, LEASE_MS + 1)
    sweepers = [Sweeper(store, artifacts) for _ in range(6)]
    threads = [threading.Thread(target=one.sweep_once) for one in sweepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    jobs = [store.get(claim.id) for claim in claims]
    assert [[line.word for line in job.history] for job in jobs if job] == [["submit", "claim", "sweep"]] * 30
    assert_clean(store)


def test_finished_job_goes_with_its_files_when_its_time_is_over(store, artifacts, sweeper):
    job_id = new_id()
    artifacts.write_bytes(f"inputs/{job_id}/input.json", b"{}")
    claim = claimed(store, id=job_id, input=b"", input_ref=f"inputs/{job_id}")
    artifacts.write_bytes(f"outputs/{job_id}/1/output.json", b"{}")
    store.complete(Completion(id=job_id, token=claim.token, status=Status.SUCCEEDED, output_ref=f"outputs/{job_id}/1"))
    sweeper.collect()
    assert state_of(store, job_id) == "succeeded"
    age(store.client, DAY_MS + 1)
    sweeper.collect()
    assert state_of(store, job_id) == "absent"
    assert not artifacts.exists(f"inputs/{job_id}/input.json")
    assert not artifacts.exists(f"outputs/{job_id}/1/output.json")
    tomb = store.tombstone(job_id)
    assert tomb is not None
    assert tomb[0] is Status.SUCCEEDED
    assert_clean(store)


def test_everything_that_is_over_goes_in_one_round(store, sweeper):
    for _ in range(600):
        store.cancel(submitted(store))
    age(store.client, DAY_MS + 1)
    sweeper.collect()
    assert store.client.zcard("q:{c}:done") == 0
    assert_clean(store)


def test_submits_are_refused_before_memory_is_full_and_taken_again_after(store, sweeper, monkeypatch):
    submitted(store)
    monkeypatch.setattr(Sweeper, "_memory_share", lambda _self: 0.81)
    sweeper.collect()
    with pytest.raises(MemoryPressure):
        store.submit(new_job())
    monkeypatch.setattr(Sweeper, "_memory_share", lambda _self: 0.4)
    sweeper.collect()
    submitted(store)
    assert_clean(store)


def test_gate_left_by_a_dead_process_opens_by_itself(store, sweeper, monkeypatch):
    monkeypatch.setattr(Sweeper, "_memory_share", lambda _self: 0.9)
    sweeper.collect()
    age(store.client, 16_000)
    submitted(store)


def test_half_full_memory_sends_old_finished_jobs_early_but_no_young_ones(store, sweeper, monkeypatch):
    old = submitted(store)
    store.cancel(old)
    age(store.client, 11 * 60 * 1000)
    young = submitted(store)
    store.cancel(young)
    monkeypatch.setattr(Sweeper, "_memory_share", lambda _self: 0.55)
    sweeper.collect()
    assert state_of(store, old) == "absent"
    assert state_of(store, young) == "canceled"


def test_sweeper_outlives_a_redis_that_does_not_answer(settings, tmp_path, artifacts):
    away = open_core(replace(settings, redis_url=f"unix://{tmp_path}/nobody"))
    sweeper = Sweeper(away.store, artifacts)
    sweeper.start()
    try:
        with pytest.raises(AssertionError):  # it does not end
            wait_until(lambda: not sweeper._thread.is_alive(), 1.6)
        assert sweeper._thread.is_alive()
    finally:
        sweeper.stop()
    assert not sweeper._thread.is_alive()


def test_files_that_runs_left_behind_are_removed_once_their_job_is_long_over(core, store, artifacts):
    claim = claimed(store)
    hour_ago = new_id(int(time.time() * 1000) - 2 * HOUR_MS)
    ended = submitted(store, id=new_id(int(time.time() * 1000) - 2 * HOUR_MS))
    store.cancel(ended)
    kept = [
        f"inputs/{ended}/input.json",
        f"runs/{claim.id}/1/x",
        f"outputs/{claim.id}/1/output.json",
        f"inputs/{new_id()}/input.json",
    ]
    orphans = [f"runs/{hour_ago}/1/x", f"outputs/{hour_ago}/2/output.json", f"inputs/{hour_ago}/input.json"]
    published = [f"runs/{hour_ago}/3/manifest.json", f"runs/{hour_ago}/3/model.onnx"]
    for name in kept + orphans + published:
        artifacts.write_bytes(name, b"{}")
    remove_left_behind(core)
    assert [artifacts.exists(name) for name in kept] == [True] * 4
    assert [artifacts.exists(name) for name in orphans] == [False] * 3
    assert [artifacts.exists(name) for name in published] == [True] * 2


def old_upload(core: Core, age_ms: int, *, recorded: bool, manifest: bool = True) -> str:
    file_id = new_id(int(time.time() * 1000) - age_ms)
    core.artifacts.write_bytes(f"files/{file_id}/content", b"x")
    if manifest:
        core.artifacts.write_manifest(f"files/{file_id}", {"account": "me"})
    if recorded:
        core.store.client.hset(keys.file(file_id), "account", "me")
    return file_id


def test_uploads_without_a_record_are_removed_after_an_hour(core, artifacts):
    created = int(time.time() * 1000) - 48 * HOUR_MS
    core.store.client.hset(keys.account("me"), "created", str(created))
    kept = [
        old_upload(core, 2 * HOUR_MS, recorded=True),
        old_upload(core, HOUR_MS // 2, recorded=False),
        old_upload(core, 2 * HOUR_MS, recorded=False, manifest=False),  # still coming in
    ]
    orphans = [
        old_upload(core, 2 * HOUR_MS, recorded=False),
        old_upload(core, 25 * HOUR_MS, recorded=False, manifest=False),
    ]
    assert sorted(remove_left_behind(core)) == sorted(f"files/{file_id}" for file_id in orphans)
    assert artifacts.list("files") == sorted(kept)


def test_an_upload_that_was_cut_off_is_removed_after_an_hour_and_a_slow_one_is_not(core, artifacts):
    ids = {what: old_upload(core, 2 * HOUR_MS, recorded=False, manifest=False) for what in ("dead", "slow", "output")}
    for what, file_id in ids.items():
        core.store.client.hset(keys.UPLOADING, file_id, "me output" if what == "output" else "me")
        if what != "slow":
            long_ago = time.time() - 2 * 3600
            os.utime(core.settings.home / "artifacts/files" / file_id / "content", (long_ago, long_ago))
    assert remove_left_behind(core) == [f"files/{ids['dead']}"]
    old = new_id(int(time.time() * 1000) - 25 * HOUR_MS)
    core.store.client.hset(keys.UPLOADING, old, "me")
    remove_left_behind(core)
    assert not core.store.client.hexists(keys.UPLOADING, old)


def test_what_cannot_be_removed_stops_nothing_behind_it(core, artifacts, monkeypatch):
    hour_ago = [new_id(int(time.time() * 1000) - 2 * HOUR_MS) for _ in range(3)]
    for job_id in hour_ago:
        artifacts.write_bytes(f"inputs/{job_id}/input.json", b"{}")
        artifacts.write_bytes(f"batches/{job_id}/plan.json", b"{}")
    delete = type(artifacts).delete

    def refused(self, prefix):
        if hour_ago[1] in prefix:
            raise PermissionError(13, "denied")
        delete(self, prefix)

    monkeypatch.setattr(type(artifacts), "delete", refused)
    removed = remove_left_behind(core)
    assert sorted(removed) == sorted(f"{kind}/{hour_ago[n]}" for kind in ("inputs", "batches") for n in (0, 2))


def test_a_folder_that_refuses_everything_stops_no_other(core, artifacts, monkeypatch):
    hour_ago = [new_id(int(time.time() * 1000) - 2 * HOUR_MS) for _ in range(MOST_IN_A_ROW + 1)]
    for job_id in hour_ago:
        artifacts.write_bytes(f"inputs/{job_id}/input.json", b"{}")
    artifacts.write_bytes(f"batches/{hour_ago[0]}/plan.json", b"{}")
    delete = type(artifacts).delete

    def refused(self, prefix):
        if prefix.startswith("inputs/"):
            raise PermissionError(13, "denied")
        delete(self, prefix)

    monkeypatch.setattr(type(artifacts), "delete", refused)
    assert remove_left_behind(core) == [f"batches/{hour_ago[0]}"]


@pytest.mark.parametrize("begun_anew", [False, True])
def test_uploads_outlive_a_redis_that_lost_its_records(core, artifacts, begun_anew):
    if begun_anew:
        core.store.client.hset(keys.account("me"), "created", str(int(time.time() * 1000)))
    file_id = old_upload(core, 2 * HOUR_MS, recorded=False)
    assert remove_left_behind(core) == []
    assert artifacts.list("files") == [file_id]


def test_stored_version_that_was_never_published_is_removed_and_a_published_one_is_not(core, artifacts, monkeypatch):
    published = tiny_versions.publish(core, tiny_versions.lookup(), "mine")
    version = core.registry.find_version(published)
    assert version is not None
    dead_attempt = f"runs/{version.training}/2"
    artifacts.write_manifest(dead_attempt, {"kind": "version"})
    assert remove_left_behind(core) == [], "it ended a moment ago"
    later = time.time() + 2 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert remove_left_behind(core) == [dead_attempt]
    assert artifacts.exists(f"{version.prefix}/model.onnx")


def test_full_redis_refuses_submits_and_nothing_else(settings, tmp_path):
    with embedded_redis(tmp_path / "small-redis", memory_bytes=12 * 2**20) as url:
        core = open_core(replace(settings, redis_url=url, max_open_jobs=10**6))
        store, client = core.store, core.store.client
        accepted, refused = fill(store)
        assert refused == 3
        began = len(accepted)

        reply = store.claim(claim_request(most_rows=20))
        assert len(reply.jobs) == 20
        liveness.report(client, "predict@full.1", {"pid": 1})
        assert [process.name for process in liveness.live(client)] == ["predict@full.1"]
        beats = [Beat(id=job.id, token=job.token) for job in reply.jobs]
        assert store.heartbeat(beats, LEASE_MS) == ["go_on"] * 20
        assert store.release([(job.id, job.token) for job in reply.jobs[:5]]) == 5
        store.retry(reply.jobs[5].id, reply.jobs[5].token, code="passing", error="It will pass.", backoff_ms=0)
        for job in reply.jobs[6:]:
            assert store.complete(completion(job)).outcome == "done"
        store.sweep()
        assert_clean(store)

        while claims := store.claim(claim_request(most_rows=100)).jobs:
            store.complete_and_claim([completion(claim) for claim in claims], None)
        jobs = store.get_many(accepted)
        assert {job.status for job in jobs if job} == {Status.SUCCEEDED}
        assert len(jobs) == began
        assert_clean(store)

        age(client, DAY_MS + 1)
        Sweeper(store, core.artifacts).collect()
        submitted(store)
        client.close()


def fill(store: JobStore) -> tuple[list[str], int]:
    """Submit until it is refused three times in a row."""
    accepted, refused = [], 0
    while refused < 3:
        try:
            accepted.append(submitted(store, input=b'{"x": "' + b"x" * 20_000 + b'"}'))
            refused = 0
        except MemoryPressure:
            refused += 1
    return accepted, refused
