"""Batches in the native dialect, without a service: what a form may say, and what a batch tells of itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coatcheck.batch_parts import header_line
from coatcheck.batches import BatchInput, BatchProgress, BatchSummary, FileForm, OutputColumn, Plan, speed
from coatcheck.errors import InvalidInput, UnknownField
from coatcheck.jobs import Job
from coatcheck.wire.native_batches import (
    BatchRequestBody,
    batch_input,
    batch_object,
    form_body,
    progress_of,
    wanted_version,
)

URL = "http://here"
RECORD = {
    b"st": b"running", b"kind": b"batch", b"account": b"me", b"k": b"io", b"t_q": b"1000000", b"t_s": b"1001000",
    b"model": b"me/wine", b"version": b"v", b"in": msgspec.json.encode(BatchInput(input_file="f", deadline_s=60.0)),
}  # fmt: skip


def job(progress: BatchProgress | None = None, summary: BatchSummary | None = None, **fields: str) -> Job:
    record = RECORD | {name.encode(): value.encode() for name, value in fields.items()}
    if progress is not None:
        record[b"prog"] = msgspec.json.encode(progress)
    if summary is not None:
        record[b"res"] = msgspec.json.encode(summary)
    return Job.from_hash("c" + "0" * 26, record)


def test_speed_is_told_from_rows_and_seconds_or_not_at_all():
    assert speed(500, 2000, 5.0) == (100.0, 15.0)
    assert speed(2000, 2000, 4.0) == (500.0, 0.0)
    assert speed(10, 0, 2.0) == (5.0, None), "the number of all rows is not known yet"
    assert speed(0, 100, 3.0) == (None, None)
    assert speed(5, 100, 0.0) == (None, None)


def test_progress_counts_from_the_first_claim_and_tells_no_total_before_the_plan_is_whole():
    planned = BatchProgress(total=400, whole=True, started_ms=1_001_000)
    tally: dict[str, Any] = {"children": "4", "n_ok": "90", "n_bad": "10", "c:missing_value": "10"}
    told = progress_of(job(planned, **tally), now_ms=1_011_000)
    assert (told.total, told.succeeded, told.failed, told.rows_per_s, told.eta_s) == (400, 90, 10, 10.0, 30.0)
    half = msgspec.structs.replace(planned, whole=False)
    told = progress_of(job(half, **tally), now_ms=1_011_000)
    assert (told.total, told.rows_per_s, told.eta_s) == (None, 10.0, None)


def test_open_batch_tells_its_tally_and_an_ended_one_its_summary():
    tally: dict[str, Any] = {"children": "4", "n_ok": "90", "n_bad": "10", "c:missing_value": "10"}
    shown = batch_object(job(BatchProgress(total=400, whole=True), **tally), URL, now_ms=1_011_000)
    assert (shown.status, shown.state, shown.rows.total, shown.errors) == (
        "processing", "running", 400, {"missing_value": 10},
    )  # fmt: skip
    assert (shown.input_file, shown.output_file, shown.options) == ("f", None, {"deadline": 60.0})
    summary = BatchSummary(total=400, succeeded=80, failed=5, codes={"x": 5}, output_file="o", error_file="e")
    shown = batch_object(job(None, summary, st="canceled", t_e="1020000", **tally), URL)
    assert (shown.status, shown.rows.succeeded, shown.rows.failed, shown.errors) == ("canceled", 80, 5, {"x": 5})
    assert (shown.output_file, shown.error_file, shown.eta_s) == ("o", "e", None)
    assert shown.urls["output"] == f"{URL}/v1/batches/c{'0' * 26}/output"


def test_batch_between_its_halves_is_running_not_waiting():
    assert batch_object(job(st="queued"), URL).status == "starting"
    assert batch_object(job(st="queued", planned="1", children="3"), URL).state == "running"
    canceling = batch_object(job(st="queued", planned="1", children="3", cancel="5"), URL)
    assert (canceling.status, canceling.state) == ("processing", "canceling")


def test_fields_of_a_form_are_read_as_json_would_be():
    fields = {"model": "me/wine", "join": "No", "include": "a, b ,c", "exclude": '["x,y", "z"]', "deadline": "90"}
    assert batch_input(form_body(fields)) == BatchInput(
        input_file="", join=False, include=("a", "b", "c"), exclude=("x,y", "z"), deadline_s=90.0
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"join": "maybe"}, "join is 'maybe'; expected true or false"),
        ({"deadline": "soon"}, "deadline is 'soon'; expected a number"),
        ({"include": "[1]"}, "expected a JSON list of texts"),
        ({"webhook_events_filter": "never"}, "webhook_events_filter[0] is 'never'; expected one of"),
    ],
)
def test_field_that_does_not_fit_is_named(fields, told):
    with pytest.raises(InvalidInput, match=told.replace("[", r"\[")):
        form_body({"model": "me/wine", **fields})


def test_unknown_field_is_refused():
    with pytest.raises(UnknownField, match="colour is no field of a batch; expected file, model"):
        form_body({"colour": "red"})


def test_model_and_version_are_taken_in_every_way_they_are_written():
    def asked(**fields: str) -> tuple[str, str]:
        return wanted_version(BatchRequestBody(input_file="f", **fields))  # type: ignore[arg-type]

    assert asked(model="me/wine") == ("me/wine", "")
    assert asked(model="me/wine:production") == ("me/wine", "production")
    assert asked(model="me/wine", version="3") == ("me/wine", "3")
    assert asked(version="me/wine:2") == ("me/wine", "2")
    assert asked(version="a" * 64) == ("", "a" * 64)
    for fields, told in (
        ({}, "model is missing"),
        ({"model": "wine"}, "expected owner/name"),
        ({"model": "me/wine:1", "version": "2"}, "expected one of them"),
    ):
        with pytest.raises(InvalidInput, match=told):
            asked(**fields)


@pytest.mark.parametrize(
    ("output_format", "join", "delimiter", "told"),
    [
        ("csv", True, ",", b'a,"b,c",label\n'),
        ("csv", False, ",", b"row,label\n"),
        ("csv", True, ";", b"a;b,c;label\n"),
        ("tsv", True, ",", b"a\tb,c\tlabel\n"),
        ("jsonl", True, ",", b""),
    ],
)
def test_first_line_of_an_output_that_is_not_whole(output_format, join, delimiter, told):
    form = FileForm(format="csv", size=1, columns=("a", "b,c"), delimiter=delimiter)
    outputs = (OutputColumn(name="label", kind="text"),)
    plan = Plan(batch="b", version="v", source="s", form=form, output_format=output_format, join=join,
                joined=("a", "b,c"), outputs=outputs)  # fmt: skip
    assert header_line(plan) == told
