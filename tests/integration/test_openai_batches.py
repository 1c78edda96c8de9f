"""An OpenAI batch through the core: every line is told of once, whatever ends the batch and whoever dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from batching import claim_chunk, conduct_once, content_of, job_of, summary_of, upload
from factories import age, assert_clean
from tiny_versions import ACCOUNT, lookup, publish

from coatcheck.batches import BatchInput
from coatcheck.claims import Claimed
from coatcheck.core import Core, open_core
from coatcheck.errors import Conflict
from coatcheck.failpoints import Failpoints
from coatcheck.jobs import Job, Status
from coatcheck.wire.openai_batches import batch_object
from workers.batch import planning
from workers.batch.chunks import ChunkRunner
from workers.batch.claimed import ClaimedBatch
from workers.sessions import CPU, Sessions

ENDPOINT = "/v1/models/me/lookup/predictions"
#: Five chunks.
LINES, CHUNK = 320, 64


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "sizes", lambda *_: (CHUNK, 2**20, CHUNK))


@pytest.fixture
def core(settings, redis) -> Core:
    return open_core(settings, redis)


@pytest.fixture
def version(core) -> str:
    return publish(core, lookup(), "lookup")


def line(number: int, **changes: Any) -> str:
    body = {"input": {"x": 5000 if number % 50 == 7 else "no" if number % 50 == 8 else number % 100}}
    request = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(request | changes) + "\n"


def submit(core: Core, content: str, **changes: Any) -> str:
    options: dict[str, Any] = {"format": "openai", "dialect": "openai", "endpoint": ENDPOINT, "deadline_s": 3600.0}
    given = BatchInput(input_file=upload(core, content, "in.jsonl"), **options | changes)
    return core.queue.submit_batch(ACCOUNT, model="me/lookup", given=given).job.id


def submit_lines(core: Core, **changes: Any) -> str:
    return submit(core, "".join(line(number) for number in range(LINES)), **changes)


def score(core: Core, claim: Claimed) -> Callable[[], object]:
    """Score a claimed chunk; the report is made by calling what is returned."""
    job = core.store.get(claim.id)
    assert job is not None
    pool = Sessions(core.registry.find_version, core.artifacts, provider=CPU, memory_bytes=2**30, threads=1)
    runner = ChunkRunner(core, Failpoints(""), between=lambda: None, unwanted=lambda _: False)
    completion = runner.run(pool.get(job.version), claim)
    assert completion is not None
    return lambda: core.store.complete(completion)


def score_chunks(core: Core, version: str, most: int = 100) -> int:
    done = 0
    while done < most and (claim := claim_chunk(core, version)) is not None:
        score(core, claim)()
        done += 1
    return done


def ended(core: Core, batch: str) -> Job:
    """The batch after its last step."""
    for _ in range(3):
        if not job_of(core, batch).status.terminal:
            conduct_once(core)
    assert job_of(core, batch).status.terminal
    assert_clean(core.store)
    return job_of(core, batch)


def word(core: Core, batch: str) -> str:
    return batch_object(job_of(core, batch), BatchInput(input_file=""), None, None).status


def told(core: Core, batch: str) -> tuple[bytes, bytes]:
    """Contents of the output and the error file."""
    summary = summary_of(core, batch)
    return content_of(core, summary.output_file), content_of(core, summary.error_file)


def ids(content: bytes) -> list[int]:
    return [int(json.loads(one)["custom_id"].partition("-")[2]) for one in content.splitlines()]


def codes(content: bytes) -> list[str]:
    lines = [json.loads(one) for one in content.splitlines()]
    return [(one["error"] or one["response"]["body"])["code"] for one in lines]


def test_every_line_is_in_one_of_the_files_in_order(core, version):
    batch = submit_lines(core)
    assert word(core, batch) == "validating"
    assert conduct_once(core) == "parked"
    assert word(core, batch) == "in_progress"
    assert score_chunks(core, version) == 5
    assert word(core, batch) == "finalizing"
    assert ended(core, batch).status is Status.SUCCEEDED
    output, errors = told(core, batch)
    bad = [number for number in range(LINES) if number % 50 in (7, 8)]
    assert ids(output) == [number for number in range(LINES) if number not in bad]
    assert (ids(errors), codes(errors)) == (bad, ["run_failed", "invalid_input"] * 7)
    summary = summary_of(core, batch)
    assert (summary.total, summary.succeeded, summary.failed) == (320, 306, 14)
    assert summary.codes == {"run_failed": 7, "invalid_input": 7}


def test_worker_that_dies_in_a_chunk_changes_nothing_in_the_files(core, version):
    undisturbed, disturbed = submit_lines(core), submit_lines(core)
    assert [conduct_once(core), conduct_once(core)] == ["parked", "parked"]
    claim = claim_chunk(core, version)
    assert claim is not None
    late = score(core, claim)  # it wrote its parts, and died before it could say so
    core.store.expire_worker("predict@test.1")
    assert score_chunks(core, version) == 10
    late()
    assert [ended(core, batch).status for batch in (undisturbed, disturbed)] == [Status.SUCCEEDED] * 2
    first, second = told(core, undisturbed), told(core, disturbed)
    assert [ids(part) for part in first] == [ids(part) for part in second]
    for one, other in zip(first[0].splitlines(), second[0].splitlines(), strict=True):
        answers = [json.loads(found)["response"]["body"]["output"] for found in (one, other)]
        assert answers[0] == answers[1]


def test_canceled_batch_tells_of_every_line(core, version):
    batch = submit_lines(core)
    conduct_once(core)
    assert score_chunks(core, version, most=2) == 2
    core.queue.cancel(ACCOUNT, batch)
    assert word(core, batch) == "cancelling"
    assert ended(core, batch).status is Status.CANCELED
    output, errors = told(core, batch)
    assert sorted(ids(output) + ids(errors)) == list(range(LINES))
    assert codes(errors).count("batch_cancelled") == LINES - 2 * CHUNK


def test_batch_past_its_window_tells_of_every_line(core, version):
    batch = submit_lines(core, deadline_s=60.0)
    conduct_once(core)
    assert score_chunks(core, version, most=3) == 3
    age(core.store.client, 61_000)
    core.store.sweep()
    job = ended(core, batch)
    assert (job.status, job.code, word(core, batch)) == (Status.FAILED, "deadline", "expired")
    output, errors = told(core, batch)
    assert sorted(ids(output) + ids(errors)) == list(range(LINES))
    assert codes(errors).count("batch_expired") == LINES - 3 * CHUNK
    assert summary_of(core, batch).failed == len(ids(errors))


def test_batch_whose_window_ends_while_it_is_planned_tells_of_every_line(core, version, monkeypatch):
    batch = submit_lines(core, deadline_s=60.0)
    looks = iter([False, False, *[True] * 100])
    monkeypatch.setattr(ClaimedBatch, "late", property(lambda _: next(looks)))
    assert conduct_once(core) == "parked"
    assert job_of(core, batch).children == 2
    assert score_chunks(core, version) == 2
    ended(core, batch)
    assert word(core, batch) == "expired"
    output, errors = told(core, batch)
    assert sorted(ids(output) + ids(errors)) == list(range(LINES))
    assert codes(errors).count("batch_expired") == LINES - 2 * CHUNK


def test_file_that_does_not_validate_becomes_no_chunk(core, version):
    batch = submit(core, line(1) + line(2, url="/v1/predictions") + line(1) + "{\n")
    assert conduct_once(core) == "refused"
    job = job_of(core, batch)
    assert (job.status, job.children) == (Status.FAILED, 0)
    assert [(error.code, error.line) for error in summary_of(core, batch).errors] == [
        ("url_mismatch", 2),
        ("invalid_json_line", 4),
        ("duplicate_custom_id", 3),
    ]
    assert claim_chunk(core, version) is None


def test_input_file_that_is_deleted_meanwhile_takes_no_finished_line_along(core, version):
    batch = submit_lines(core)
    conduct_once(core)
    assert score_chunks(core, version, most=2) == 2
    (file,) = core.files.page(ACCOUNT).files
    core.files.delete(ACCOUNT, file.id)
    assert score_chunks(core, version) == 3
    assert ended(core, batch).status is Status.SUCCEEDED
    output, errors = told(core, batch)
    failed = [json.loads(one) for one in errors.splitlines()]
    lost = [one for one in failed if one["error"] and one["error"]["code"] == "file_not_found"]
    assert len(lost) == 3 * CHUNK
    assert len(ids(output)) == 2 * CHUNK - (len(failed) - len(lost)) > CHUNK
    assert "of the file" in lost[0]["error"]["message"]


def test_byte_order_mark_is_passed_over(core, version):
    batch = submit(core, "\ufeff" + line(1) + line(2))
    conduct_once(core)
    score_chunks(core, version)
    ended(core, batch)
    assert ids(told(core, batch)[0]) == [1, 2]


def test_failed_lines_are_not_scored_again_by_row(core, version):
    batch = submit_lines(core)
    conduct_once(core)
    score_chunks(core, version)
    ended(core, batch)
    with pytest.raises(Conflict, match="new file"):
        core.queue.retry_batch(ACCOUNT, batch, only_failed=True)
    again = core.queue.retry_batch(ACCOUNT, batch).job.id
    conduct_once(core)
    score_chunks(core, version)
    ended(core, again)
    assert [ids(part) for part in told(core, again)] == [ids(part) for part in told(core, batch)]
