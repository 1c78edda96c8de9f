"""A rotation of keys over a whole service: every place that holds a sealed value, and the processes that must know."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from click.testing import CliRunner
from factories import VERSION, claim_next, claimed, completion, new_job, planning, submitted
from keyrings import NEW, NEW_ID, OLD, OLD_ID, settings_under, signature_with, store_under
from predicting import wait_until

from coatcheck import keys, liveness, resealing, rotation
from coatcheck.artifacts import ArtifactStore
from coatcheck.claims import Beat, Event, Publication
from coatcheck.cli_artifacts import artifacts_commands
from coatcheck.deliveries import Attempt, Deliveries, NewDelivery, Pace, Verdict
from coatcheck.encryption import Keyring
from coatcheck.errors import Conflict, SettingsError
from coatcheck.job_events import read_events
from coatcheck.jobs import Kind, Status
from coatcheck.keys_in_use import FIGURE, check_keys, start_with, told_keys
from coatcheck.registry import Registry
from coatcheck.resealing import PLAIN, values_by_key
from coatcheck.rotation import rotate
from coatcheck.sealed_values import Sealer
from coatcheck.settings import Settings
from coatcheck.store import JobStore
from web.metrics import HttpStats, _report
from workers.leases import HeldLeases

MARKER = "planted-marker-77b0"
INPUT = b'{"x": "planted-marker-77b0"}'
SIGNATURE = signature_with(MARKER)
PACE = Pace(lease_ms=10_000, failing_ms=10**9, most_per_receiver=2)


def artifacts_in(folder: Path, *under: bytes) -> ArtifactStore:
    return ArtifactStore(f"file://{folder}/artifacts", Keyring(list(under)))


def attempt(deliveries: Deliveries, answer: str) -> None:
    (leased,) = deliveries.lease("io", PACE, most=1)
    noted = Attempt(at_ms=1, status=500, ms=1, answer=answer)
    deliveries.report(leased, Verdict(word="again", attempt=noted, code="status"), PACE)


def delivery(body: bytes) -> NewDelivery:
    return NewDelivery(
        id="d1", account="ann", endpoint="", event="e1", type="t", job="", url="http://h", receiver="h:80", body=body
    )


def deliveries_under(redis: redis_py.Redis, *under: bytes) -> Deliveries:
    return Deliveries(redis, Sealer(Keyring(list(under))) if under else None)


class Planted:
    """One of each place that can hold a sealed value; all under the given keys, or plain."""

    def __init__(self, redis: redis_py.Redis, *under: bytes) -> None:
        self.redis = redis
        store = store_under(redis, *under)
        self.training = store.submit(new_job(kind=Kind.TRAINING, queue="train", input=INPUT)).id
        (claim,) = claim_next(store, kind="train").jobs
        publication = Publication(
            owner="ann",
            name="own",
            version_id=VERSION,
            prefix="runs/x/1",
            signature=SIGNATURE.to_json().decode(),
            metrics=f'{{"example": "{MARKER}"}}',
        )
        store.complete(completion(claim, publication=publication))
        self.batch = planning(store, children=1, input=INPUT)
        logged = [(NEW, OLD), under, (NEW, OLD)] if under else [under]
        for number, keys_ in enumerate(logged):  # of three events only the middle one is under the old key
            beat = Beat(
                id=self.batch.id,
                token=self.batch.token,
                progress=f'"{MARKER}"',
                events=(Event(name="log", data=f"{MARKER}{number}"),),
                nonce=str(number),
            )
            store_under(redis, *keys_).heartbeat([beat], 60_000)
        store.heartbeat([Beat(id=self.batch.id, token=self.batch.token, progress=f'"{MARKER}"')], 60_000)
        self.ends = [f"{MARKER}{number}".encode() for number in range(len(logged))]
        failed, done = claimed(store, input=INPUT), claimed(store, input=INPUT)
        store.complete(completion(failed, Status.FAILED, error=f"{MARKER} does not fit"))
        store.complete(completion(done, output=INPUT))
        self.failed, self.done, self.waiting = failed.id, done.id, submitted(store, input=INPUT)
        deliveries = deliveries_under(redis, *under)
        assert deliveries.add(delivery(body=INPUT), once=False)
        for number in range(3):
            attempt(deliveries, f"you sent {MARKER} {number}")

    def events(self, store: JobStore) -> list[Any]:
        job = store.get(self.batch.id)
        assert job is not None
        return [event for event in read_events(store, job) if event.name == "log"]

    def check(self, *under: bytes) -> None:
        """Read each with these keys alone."""
        store, deliveries = store_under(self.redis, *under), deliveries_under(self.redis, *under)
        training, batch, failed, done, waiting = store.get_many(
            [self.training, self.batch.id, self.failed, self.done, self.waiting]
        )
        assert training is not None
        assert batch is not None
        assert failed is not None
        assert done is not None
        assert waiting is not None
        assert (batch.input, batch.progress) == (INPUT, f'"{MARKER}"'.encode())
        assert [event.data for event in self.events(store)] == self.ends
        assert (failed.error, failed.input) == (f"{MARKER} does not fit", INPUT)
        assert done.output == INPUT
        assert waiting.input == INPUT
        version = Registry(self.redis, store.sealer).find_version(VERSION)
        assert version is not None
        assert version.metrics == f'{{"example": "{MARKER}"}}'
        assert version.signature is not None
        assert version.signature.classes == (MARKER, "other")
        assert store.sealer is not None
        assert store.sealer.open(deliveries.body("d1")[0], "body", "d1") == INPUT
        answers = [one.answer for one in deliveries.get("ann", "d1").attempts]
        assert answers == [f"you sent {MARKER} {number}" for number in range(3)]


# -- every place -----------------------------------------------------------------------------------------------


def test_one_of_each_is_read_when_the_old_key_is_gone(redis: redis_py.Redis, tmp_path: Path) -> None:
    check_keys(redis, Keyring([OLD]))
    planted = Planted(redis, OLD)
    planted.check(OLD, NEW)
    before = values_by_key(redis)
    assert before[OLD_ID] >= 14
    ids = [event.id for event in planted.events(store_under(redis, NEW, OLD))]
    done = rotate(artifacts_in(tmp_path, NEW, OLD), redis, [])
    assert (done.damaged, done.retired) == ({}, [OLD_ID])
    assert done.values == before[OLD_ID] - 2  # the three answers of the delivery lie in one
    assert set(values_by_key(redis)) == {NEW_ID}
    check_keys(redis, Keyring([NEW]))
    planted.check(NEW)
    assert [event.id for event in planted.events(store_under(redis, NEW))] == ids
    assert rotate(artifacts_in(tmp_path, NEW), redis, []).values == 0


def test_what_was_plain_is_sealed(redis: redis_py.Redis, tmp_path: Path) -> None:
    planted = Planted(redis)
    assert set(values_by_key(redis)) == {PLAIN}
    rotate(artifacts_in(tmp_path, NEW), redis, [])
    assert set(values_by_key(redis)) == {NEW_ID}
    planted.check(NEW)


@pytest.mark.parametrize("place", ["in", "res", "err", "prog", "metrics", "signature", "body", "log", "ev", "hand"])
def test_one_value_that_cannot_be_brought_along_keeps_its_key(
    redis: redis_py.Redis, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever place is left out by mistake: what lies there is counted, and its key stays in use."""
    check_keys(redis, Keyring([OLD]))
    sealer = Sealer(Keyring([OLD]))
    value: str | bytes = sealer.seal_text("x", "it", "i")
    if place == "ev":
        redis.xadd(keys.events("i"), {"log": value})
    elif place == "hand":
        redis.lpush(keys.hand("w"), b"q i t 1 0 \n" + sealer.seal(b"x", "in", "i"))
    else:
        line = json.dumps({"at_ms": 1, "status": 500, "ms": 1, "answer": value})
        whose = {"metrics": keys.version, "signature": keys.version, "body": keys.delivery, "log": keys.delivery}
        redis.hset(whose.get(place, keys.job)("i"), place, line if place == "log" else value)
    assert values_by_key(redis) == {OLD_ID: 1}
    monkeypatch.setattr("coatcheck.rotation.reseal", lambda *_: resealing.Resealed())
    assert rotate(artifacts_in(tmp_path, NEW, OLD), redis, []).retired == []
    with pytest.raises(SettingsError, match=OLD_ID):
        check_keys(redis, Keyring([NEW]))


def test_a_value_that_does_not_open_is_named_and_stays(redis: redis_py.Redis, tmp_path: Path) -> None:
    first, second = (submitted(store_under(redis, OLD), input=INPUT) for _ in range(2))
    moved = redis.hget(keys.job(second), "in") or b""
    redis.hset(keys.job(first), "in", moved)
    done = rotate(artifacts_in(tmp_path, NEW, OLD), redis, [])
    assert (list(done.damaged), done.values, done.retired) == ([f"in of {first}"], 1, [])
    assert redis.hget(keys.job(first), "in") == moved


def test_what_jobs_write_meanwhile_stays(
    redis: redis_py.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(redis, OLD)
    running, deliveries = store_under(redis, NEW, OLD), deliveries_under(redis, NEW, OLD)
    plain = resealing._Anew.value
    begun: list[str] = []

    def value(self: Any, kept: bytes, what: str, of: str, *, text: bool) -> bytes | None:
        if what == "prog" and what not in begun:
            begun.append(what)
            running.heartbeat([Beat(id=planted.batch.id, token=planted.batch.token, progress='"later"')], 60_000)
        if what == "answer" and what not in begun:
            begun.append(what)
            redis.zadd(f"{keys.PREFIX}receiver:h:80", {"d1": 0})
            attempt(deliveries, "later")
        if what == "ev" and what not in begun:
            begun.append(what)
            beat = Beat(
                id=planted.batch.id, token=planted.batch.token, events=(Event(name="log", data="later"),), nonce="later"
            )
            running.heartbeat([beat], 60_000)
        return plain(self, kept, what, of, text=text)

    monkeypatch.setattr(resealing._Anew, "value", value)
    assert rotate(artifacts_in(tmp_path, NEW, OLD), redis, []).damaged == {}
    assert sorted(begun) == ["answer", "ev", "prog"]
    assert set(values_by_key(redis)) == {NEW_ID}
    only_new = store_under(redis, NEW)
    batch = only_new.get(planted.batch.id)
    assert batch is not None
    assert batch.progress == b'"later"'
    assert [event.data for event in planted.events(only_new)] == [*planted.ends, b"later"]
    assert [one.answer for one in deliveries_under(redis, NEW).get("ann", "d1").attempts][3:] == ["later"]


# -- the processes ---------------------------------------------------------------------------------------------


def test_nothing_is_rewritten_while_a_live_process_has_not_the_newest_key(
    redis: redis_py.Redis, tmp_path: Path
) -> None:
    storage = artifacts_in(tmp_path, OLD)
    storage.write_bytes("files/one/content", INPUT)
    storage.write_manifest("files/one", {})
    submitted(store_under(redis, OLD), input=INPUT)
    check_keys(redis, Keyring([OLD]))
    both = artifacts_in(tmp_path, NEW, OLD)
    liveness.report(redis, "web@1", told_keys(Keyring([NEW, OLD])))
    for name, figures in (("predict@2", told_keys(Keyring([OLD]))), ("io@3", told_keys(None)), ("train@4", {"pid": 1})):
        liveness.report(redis, name, figures)
        with pytest.raises(Conflict, match=name) as told:
            rotate(both, redis, both.names(), settled_s=0)
        assert "web@1" not in str(told.value)
        assert NEW_ID in str(told.value)
        liveness.forget(redis, name)
    assert storage.read_bytes("files/one/content") == INPUT
    assert set(values_by_key(redis)) == {OLD_ID}
    check_keys(redis, Keyring([OLD]))  # what was refused binds nobody to the new key
    assert rotate(both, redis, both.names(), settled_s=0).retired == [OLD_ID]


def test_a_process_that_starts_beside_a_rotation_is_seen_by_it_or_sees_it(
    redis: redis_py.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_keys(redis, Keyring([OLD]))
    both = artifacts_in(tmp_path, NEW, OLD)

    def started_just_before(client: redis_py.Redis, keyring: Keyring) -> None:
        start_with(redis, Keyring([OLD]))
        check_keys(client, keyring)

    monkeypatch.setattr(rotation, "check_keys", started_just_before)
    with pytest.raises(Conflict, match="starting@"):
        rotate(both, redis, [])
    monkeypatch.undo()
    check_keys(redis, Keyring([OLD]))  # what was refused binds nobody to the new key
    check_keys(redis, Keyring([NEW, OLD]))
    redis.hset(keys.ENCRYPTION_KEYS, NEW_ID, "1")  # a rotation has begun
    for process in liveness.live(redis):
        liveness.forget(redis, process.name)
    with pytest.raises(SettingsError, match=NEW_ID):
        start_with(redis, Keyring([OLD]))
    assert liveness.live(redis) == []
    assert rotate(both, redis, []).retired == [OLD_ID]


def test_a_key_that_a_process_begins_to_write_under_while_all_is_counted_is_not_forgotten(
    redis: redis_py.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_keys(redis, Keyring([OLD]))
    both = artifacts_in(tmp_path, NEW, OLD)

    def counted(client: redis_py.Redis) -> Counter[str]:
        start_with(redis, Keyring([OLD, NEW]))
        return values_by_key(client)

    monkeypatch.setattr(rotation, "values_by_key", counted)
    assert rotate(both, redis, []).retired == []
    with pytest.raises(SettingsError, match=OLD_ID):
        check_keys(redis, Keyring([NEW]))


def test_a_plain_answer_that_looks_sealed_keeps_no_key_in_use(redis: redis_py.Redis, tmp_path: Path) -> None:
    plain = deliveries_under(redis)
    strange = Sealer(Keyring([bytes(32)])).seal_text("what a receiver may say", "answer", "another")
    assert plain.add(delivery(body=b"{}"), once=False)
    attempt(plain, strange)
    check_keys(redis, Keyring([OLD]))
    both = artifacts_in(tmp_path, NEW, OLD)
    done = rotate(both, redis, [])
    assert (done.damaged, done.retired) == ({}, [OLD_ID])
    (noted,) = deliveries_under(redis, NEW).get("ann", "d1").attempts
    assert noted.answer.strip() == strange


def test_a_key_that_a_process_still_writes_under_is_not_forgotten(redis: redis_py.Redis, tmp_path: Path) -> None:
    both = artifacts_in(tmp_path, NEW, OLD)
    liveness.report(redis, "io@1", told_keys(Keyring([OLD, NEW])))
    done = rotate(both, redis, [])
    assert (done.retired, done.written) == ([], {OLD_ID: ["io@1"]})
    liveness.report(redis, "io@1", told_keys(Keyring([NEW, OLD])))
    assert rotate(both, redis, []).retired == [OLD_ID]


def test_the_command_names_the_processes_and_takes_force(
    redis: redis_py.Redis, redis_server: str, tmp_path: Path
) -> None:
    settings = settings_under(tmp_path, redis_server, NEW, OLD)
    _, command = artifacts_commands(lambda: settings)
    liveness.report(redis, "predict@2", told_keys(Keyring([OLD])))
    assert "has not that key: predict@2" in CliRunner().invoke(command, ["--dry-run"]).output
    refused = CliRunner().invoke(command)
    assert isinstance(refused.exception, Conflict)
    assert "predict@2" in str(refused.exception)
    forced = CliRunner().invoke(command, ["--force"])
    assert f"new is written under the key {OLD_ID} by predict@2" in forced.output
    assert forced.exit_code == 1
    liveness.forget(redis, "predict@2")
    ended = CliRunner().invoke(command)
    assert f"nothing is left under the key {OLD_ID}" in ended.output
    assert ended.exit_code == 0


def test_a_worker_and_a_web_process_tell_the_ids_of_their_keys(
    redis: redis_py.Redis, settings: Settings, tmp_path: Path
) -> None:
    encryption_keys = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    with_keys = Settings(**{**vars_of(settings), "encryption_keys": encryption_keys})
    store = JobStore(redis)
    leases = HeldLeases(store, with_keys, "io@1", dict)
    leases.start()
    stats = HttpStats()
    stats.waits = SimpleNamespace(open_waits=0)
    core: Any = SimpleNamespace(store=store, artifacts=artifacts_in(tmp_path, NEW, OLD))

    async def report_a_moment() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_report(core, stats), 0.3)

    try:
        asyncio.run(report_a_moment())
        wait_until(lambda: len(liveness.live(redis)) == 2)
        assert [process.figures[FIGURE] for process in liveness.live(redis)] == [[NEW_ID, OLD_ID]] * 2
    finally:
        leases.stop()


def vars_of(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("home", "redis_url", "api_key")}


def test_a_key_that_is_only_made_known_binds_nobody(redis: redis_py.Redis) -> None:
    for list_ in ([OLD], [OLD, NEW], [OLD], [NEW, OLD]):
        check_keys(redis, Keyring(list_))
    with pytest.raises(SettingsError, match=NEW_ID):
        check_keys(redis, Keyring([OLD]))


def test_a_new_redis_over_an_old_storage_keeps_every_key_until_a_rotation_has_looked(
    redis: redis_py.Redis, tmp_path: Path
) -> None:
    check_keys(redis, Keyring([NEW, OLD]))
    with pytest.raises(SettingsError, match=OLD_ID):
        check_keys(redis, Keyring([NEW]))
    rotate(artifacts_in(tmp_path, NEW, OLD), redis, [])
    check_keys(redis, Keyring([NEW]))
    with pytest.raises(SettingsError, match=NEW_ID):
        rotate(artifacts_in(tmp_path, OLD), redis, [])
