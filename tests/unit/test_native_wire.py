"""The native dialect's pure half: what is read from requests, and what a job looks like in answers."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import InvalidInput
from coatcheck.jobs import HistoryLine, Job, Kind, Status
from coatcheck.wire.native import QueueReport, attempts, render_job, status_word, statuses_of
from coatcheck.wire.native_requests import (
    Callback,
    ModelBody,
    PredictionBody,
    TrainingBody,
    VersionedPredictionBody,
    parse_preference,
    parse_version_reference,
    parse_webhook,
)
from coatcheck.wire.reading import decode_body, field_named, parse_count, parse_seconds, parse_time

BASE = "http://h:8000"
VERSION = "a" * 64


def make_job(**changes):
    fields = {
        "id": "c01",
        "kind": Kind.PREDICTION,
        "account": "me",
        "status": Status.QUEUED,
        "model": "me/digits",
        "version": VERSION,
        "queue": f"predict:{VERSION}",
        "destination": "",
        "input": b'{"x": [1.0, 2]}',
        "input_ref": "",
        "output": None,
        "output_ref": "",
        "code": "",
        "error": "",
        "created_ms": 1_700_000_000_123,
        "started_ms": None,
        "ended_ms": None,
        "queue_deadline_ms": None,
        "delete_ms": None,
        "limit_ms": 60_000,
        "attempts": 0,
        "max_attempts": 3,
        "fence": 0,
        "worker": "",
        "provider": "",
        "progress": None,
        "checkpoint": "",
        "webhook": "",
        "webhook_events": "",
        "webhook_status": "",
        "retry_of": "",
        "parent": "",
        "children": 0,
        "pending": 0,
        "planned": False,
        "priority": 0,
        "history": (HistoryLine(at_ms=1_700_000_000_123, word="submit", worker="", cause=""),),
    }
    return Job(**fields | changes)


def rendered(job, **kwargs):
    return json.loads(render_job(job, BASE, **kwargs))


# --- statuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_client_reads_only_its_five_words(status):
    assert status_word(status) in {"starting", "processing", "succeeded", "failed", "canceled"}
    assert rendered(make_job(status=status))["state"] == status


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.CANCELING])
def test_unfinished_job_is_starting_on_the_wait_path(status):
    assert rendered(make_job(status=status), waiting=True)["status"] == "starting"


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED])
def test_finished_job_is_told_alike_on_the_wait_path(status):
    job = make_job(status=status, ended_ms=1_700_000_001_123)
    assert rendered(job, waiting=True) == rendered(job)


def test_expired_job_is_a_failed_one_with_a_sentence():
    answer = rendered(make_job(status=Status.EXPIRED))
    assert answer["status"] == "failed"
    assert "expired" in answer["error"]


def test_status_filter_knows_both_vocabularies():
    assert statuses_of("starting") == {Status.QUEUED}
    assert statuses_of("processing") == {Status.RUNNING, Status.CANCELING}
    assert statuses_of("failed") == {Status.FAILED, Status.EXPIRED}
    assert statuses_of("expired") == {Status.EXPIRED}
    assert statuses_of("canceling") == {Status.CANCELING}
    assert statuses_of("aborted") == frozenset()


# --- jobs ---------------------------------------------------------------------------------------------------


def test_input_is_given_back_byte_for_byte():
    odd = b'{"x":  1.50, "y": 12345678901234567890}'
    assert odd in render_job(make_job(input=odd), BASE)


def test_finished_prediction_tells_times_attempts_and_output():
    history = (
        HistoryLine(at_ms=1_700_000_000_000, word="submit", worker="", cause=""),
        HistoryLine(at_ms=1_700_000_001_000, word="claim", worker="predict@1", cause=""),
        HistoryLine(at_ms=1_700_000_002_000, word="expire_worker", worker="predict@1", cause="died"),
        HistoryLine(at_ms=1_700_000_003_000, word="claim", worker="predict@2", cause=""),
        HistoryLine(at_ms=1_700_000_003_500, word="complete", worker="predict@2", cause=""),
    )
    answer = rendered(
        make_job(
            status=Status.SUCCEEDED,
            input=None,
            output=b'{"label":"7"}',
            created_ms=1_700_000_000_000,
            started_ms=1_700_000_003_000,
            ended_ms=1_700_000_003_500,
            delete_ms=1_700_086_400_000,
            provider="CPUExecutionProvider",
            history=history,
        )
    )
    assert answer["output"] == {"label": "7"}
    assert answer["input"] is None
    assert answer["input_removed"] is True
    assert answer["metrics"] == {"predict_time": 0.5, "total_time": 3.5}
    assert datetime.fromisoformat(answer["completed_at"]) == datetime(2023, 11, 14, 22, 13, 23, 500_000, tzinfo=UTC)
    assert [(a["n"], a["worker"], a["outcome"], a["cause"]) for a in answer["attempts"]] == [
        (1, "predict@1", "expire_worker", "died"),
        (2, "predict@2", "complete", None),
    ]
    assert [entry["event"] for entry in answer["timeline"]] == [line.word for line in history]


def test_urls_are_absolute_and_only_predictions_stream():
    assert rendered(make_job())["urls"] == {
        "get": f"{BASE}/v1/predictions/c01",
        "cancel": f"{BASE}/v1/predictions/c01/cancel",
        "events": f"{BASE}/v1/predictions/c01/events",
        "stream": f"{BASE}/v1/predictions/c01/stream",
    }
    assert "stream" not in rendered(make_job(kind=Kind.TRAINING))["urls"]


def test_training_tells_version_weights_progress_and_logs():
    job = make_job(
        kind=Kind.TRAINING,
        status=Status.SUCCEEDED,
        model="catalog/cnn",
        destination="me/digits",
        progress=b'{"epoch": 3}',
        output=json.dumps({"version": f"me/digits:{VERSION}", "metrics": {"accuracy": 0.99}}).encode(),
    )
    answer = rendered(job, logs=" 50%|#####     | 5/10")
    assert answer["destination"] == "me/digits"
    assert answer["output"] == {
        "version": f"me/digits:{VERSION}",
        "weights": f"{BASE}/v1/models/me/digits/versions/{VERSION}/download",
        "metrics": {"accuracy": 0.99},
    }
    assert answer["progress"] == {"epoch": 3}
    assert answer["logs"] == " 50%|#####     | 5/10"


def test_waiting_job_says_why():
    answer = rendered(make_job(), queue=QueueReport(position=12, reason="12 ahead"))
    assert answer["queue"] == {"position": 12, "eta_s": None, "reason": "12 ahead"}


# --- requests -----------------------------------------------------------------------------------------------


def refused(body, kind=VersionedPredictionBody):
    with pytest.raises(InvalidInput) as caught:
        decode_body(body, kind)
    return caught.value


def test_input_is_kept_as_it_was_sent():
    body = decode_body(
        b'{"version": "v", "input": {"x":  1.50}, "stream": true, "unheard_of": 1}', VersionedPredictionBody
    )
    assert bytes(body.input) == b'{"x":  1.50}'


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b'{"version": 3, "input": {}}', "version", ("int", "text")),
        (b'{"input": {}}', "version", ("missing",)),
        (b'{"version": "v"}', "input", ("missing",)),
        (
            b'{"version": "v", "input": {}, "webhook_events_filter": ["done"]}',
            "webhook_events_filter[0]",
            ("'done'", "expected one of completed, logs, output, start"),
        ),
        (b"[1, 2]", None, ("array", "object")),
        (b'"text"', None, ("str", "object")),
        (b"", None, ("empty",)),
        (b'{"version": "v", "input": {"x": NaN}}', None, ("NaN",)),
        (b'{"version": "v", "input": {"x": -Infinity}}', None, ("Infinity",)),
        (b'{"version": "v", "input"', None, ("not JSON",)),
        (b'{"version": "v", "input": {}} x', None, ("not JSON",)),
        (b'{"version": "\xff", "input": {}}', None, ("UTF-8",)),
        (b'{"version": "v", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, ("nested",)),
    ],
)
def test_body_that_does_not_fit_is_refused_by_field(body, field, words):
    error = refused(body)
    assert error.field == field
    assert all(word in str(error) for word in words), str(error)


def test_training_and_model_bodies_are_checked():
    assert refused(b'{"input": []}', TrainingBody).field == "input"
    assert refused(b'{"input": {}, "destination": null}', TrainingBody).field == "destination"
    error = refused(b'{"owner": "me", "name": "x", "visibility": "secret"}', ModelBody)
    assert error.field == "visibility"
    assert str(error) == "visibility is 'secret'; expected one of private, public"


def test_words_of_a_client_forge_no_field():
    error = refused(b'{"owner": "me", "name": "x", "visibility": "q - at `$.evil`"}', ModelBody)
    assert error.field == "visibility"
    assert str(error).startswith("visibility is 'q - at `$.evil`'; expected one of")


def test_field_may_be_told_under_another_name():
    with pytest.raises(InvalidInput, match=r"^file is empty") as caught, field_named("input.dataset", "file"):
        raise InvalidInput("input.dataset is empty", field="input.dataset")
    assert caught.value.field == "file"
    with pytest.raises(InvalidInput, match=r"^input\.epochs is 0") as other, field_named("input.dataset", "file"):
        raise InvalidInput("input.epochs is 0", field="input.epochs")
    assert other.value.field == "input.epochs"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid_input(body):
    for kind in (VersionedPredictionBody, PredictionBody, TrainingBody, ModelBody):
        with contextlib.suppress(InvalidInput):
            assert isinstance(decode_body(body, kind), kind)


@pytest.mark.parametrize(
    ("text", "model", "version"),
    [
        (VERSION, None, VERSION),
        ("me/digits", "me/digits", None),
        ("me/digits:production", "me/digits", "production"),
        ("me/digits:3", "me/digits", "3"),
        (f"me/digits:{VERSION}", "me/digits", VERSION),
    ],
)
def test_version_is_an_id_or_names_its_model(text, model, version):
    reference = parse_version_reference(text)
    assert (reference.model, reference.version) == (model, version)


@pytest.mark.parametrize("text", ["production", "", "a" * 63, "me/", "/x", "me/x:", "a/b/c", "Me/x:1", "me/x--y:1"])
def test_version_that_is_neither_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        parse_version_reference(text)
    assert caught.value.field == "version"


def test_bare_alias_is_told_how_to_write_it():
    with pytest.raises(InvalidInput, match="owner/name:production"):
        parse_version_reference("production")


def test_webhook_completed_is_a_webhook_for_the_end():
    assert parse_webhook(Callback(webhook_completed="https://x.example/h")) == ("https://x.example/h", ("completed",))
    both = Callback(webhook="http://x.example/h", webhook_events_filter=["completed", "start"])
    assert parse_webhook(both) == ("http://x.example/h", ("start", "completed"))
    assert parse_webhook(Callback()) == ("", ())


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "x.example", "http://", "http://a b/", "http://u:p@x/", "http://x:99999/", "https://" + "x" * 3000],
)
def test_webhook_that_cannot_be_called_is_refused(url):
    with pytest.raises(InvalidInput) as caught:
        parse_webhook(Callback(webhook=url))
    assert caught.value.field == "webhook"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait", 60),
        ("wait=5", 5),
        ("respond-async, wait=10", 10),
        ('wait="7"', 7),
        ("wait=0", 1),
        ("wait=-4", 1),
        ("wait=1e9", 60),
        ("wait=nan", 60),
        ("wait=soon", 60),
        ("respond-async", None),
        ("", None),
    ],
)
def test_preference_is_clamped_and_never_an_error(header, seconds):
    assert parse_preference(header, 60) == seconds


@pytest.mark.parametrize("text", ["-1", "1e9", "60.5", "nan", "inf", "", "soon"])
def test_wait_out_of_range_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_seconds(text, "wait", low=0, high=60)


@pytest.mark.parametrize("text", ["0", "-1", "1001", "ten", "1.5", "", "9" * 30])
def test_limit_out_of_range_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_count(text, "limit", low=1, high=1000)


def test_time_without_a_zone_is_utc():
    assert parse_time("2026-01-01T00:00:00", "after") == parse_time("2026-01-01T00:00:00Z", "after")
    with pytest.raises(InvalidInput):
        parse_time("yesterday", "after")


def test_objects_have_a_json_schema():
    from coatcheck.wire import native, native_objects

    kinds = [native.PredictionObject, native.TrainingObject, native_objects.ModelObject, native_objects.FileObject]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/{name}")
    assert {"PredictionObject", "VersionObject", "QueueReport"} <= set(components)


def test_a_parked_batch_has_ended_its_attempt():
    words = ("submit", "claim", "park", "claim", "complete")
    history = tuple(
        HistoryLine(at_ms=1_700_000_000_000 + n, word=word, worker="io@1", cause="") for n, word in enumerate(words)
    )
    told = attempts(history)
    assert [(one.n, one.outcome) for one in told] == [(1, "park"), (2, "complete")]
    assert all(one.ended_at is not None for one in told)


def test_a_training_that_succeeded_does_not_say_that_it_starts():
    starting = b'{"phase":"starting","done":0,"total":1}'
    for status, phase in ((Status.RUNNING, "starting"), (Status.FAILED, "starting"), (Status.SUCCEEDED, "finished")):
        job = make_job(kind=Kind.TRAINING, status=status, progress=starting, destination="me/m")
        assert rendered(job)["progress"]["phase"] == phase
