"""Predictions over HTTP: accepted, waited for, polled, streamed, listed, canceled; the worker is a stand-in."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import httpx
import pytest
from factories import age
from web_service import IMAGE_MODEL, MODEL, OTHER_KEY, VERSION, web_service

from coatcheck.claims import Completion
from coatcheck.jobs import Status, new_id


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):

    from coatcheck.settings import Settings

    settings = Settings(home=tmp_path_factory.mktemp("home"), redis_url=redis_server)
    with web_service(settings) as running:
        yield running


def fails(claim):
    return Completion(
        id=claim.id, token=claim.token, status=Status.FAILED, code="bad_input", error="The image does not decode."
    )


def test_accepted_job_is_told_at_once_and_found_by_its_address(service):
    answer = service.predict()
    assert answer.status_code == 201
    job = answer.json()
    assert job["status"] == "starting"
    assert job["state"] == "queued"
    assert answer.headers["location"] == job["urls"]["get"]
    assert service.client.get(job["urls"]["get"]).json()["input"] == {"x": 1, "y": 2}


def test_job_waited_for_is_answered_when_it_ends(service):
    with service.worker().running():
        answer = service.predict(2, 3, headers={"Prefer": "wait=5"})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == "wait=5"
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["output"] == {"value": 5}


def test_wait_that_is_up_answers_starting_even_when_it_runs(service):
    with service.worker(delay_s=1.6).running():
        began = time.monotonic()
        answer = service.predict(headers={"Prefer": "wait=1"})
        assert 0.9 < time.monotonic() - began < 10
        assert answer.status_code == 201
        assert (answer.json()["status"], answer.json()["state"]) == ("starting", "running")
        finished = service.client.get(answer.json()["urls"]["get"], params={"wait": 5}).json()
    assert finished["status"] == "succeeded"


def test_long_poll_tells_what_is_true_when_its_time_is_up(service):
    with service.worker(delay_s=1.2).running():
        job = service.predict().json()
        time.sleep(0.1)
        told = service.client.get(job["urls"]["get"], params={"wait": 0.3}).json()
        assert told["status"] == "processing"
        assert service.client.get(job["urls"]["get"], params={"wait": 5}).json()["status"] == "succeeded"


@pytest.mark.parametrize("wait", ["-1", "1e9", "61", "soon", "nan"])
def test_wait_that_makes_no_sense_is_refused(service, wait):
    job = service.predict().json()
    answer = service.client.get(job["urls"]["get"], params={"wait": wait})
    assert answer.status_code == 422
    assert answer.json()["field"] == "wait"


def test_plain_poll_of_an_open_job_is_held_no_longer_than_set(service):
    job = service.predict().json()
    began = time.monotonic()
    assert service.client.get(job["urls"]["get"]).json()["state"] == "queued"
    # The job never ends: a poll that is held for it would come back when the waits do.
    assert time.monotonic() - began < service.settings.poll_hold_ms / 1000 + 10


def test_failed_job_tells_code_and_sentence(service):
    with service.worker(answer=fails).running():
        answer = service.predict(headers={"Prefer": "wait"}).json()
    assert (answer["status"], answer["code"]) == ("failed", "bad_input")
    assert answer["error"] == "The image does not decode."
    assert answer["input"] == {"x": 1, "y": 2}


def test_many_instances_are_answered_in_order(service):
    body = {"version": VERSION, "input": {"instances": [{"x": n, "y": 0} for n in range(50)]}}
    with service.worker().running():
        answer = service.client.post("/v1/predictions", json=body, headers={"Prefer": "wait"})
    assert [row["value"] for row in answer.json()["output"]] == list(range(50))


def test_version_is_named_by_model_alias_or_number(service):
    for version in (MODEL, f"{MODEL}:latest", f"{MODEL}:1", f"{MODEL}:{VERSION}"):
        body = {"version": version, "input": {"x": 1, "y": 1}}
        answer = service.client.post("/v1/predictions", json=body)
        assert (answer.status_code, answer.json()["version"]) == (201, VERSION), answer.text
    by_path = service.client.post(f"/v1/models/{MODEL}/predictions", json={"input": {"x": 1, "y": 1}})
    assert (by_path.status_code, by_path.json()["model"]) == (201, MODEL)


def test_canceled_job_stays_canceled_and_may_be_canceled_twice(service):
    job = service.predict().json()
    for _ in range(2):
        answer = service.client.post(job["urls"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")


def test_finished_job_cannot_be_canceled(service):
    with service.worker().running():
        job = service.predict(headers={"Prefer": "wait"}).json()
    answer = service.client.post(job["urls"]["cancel"])
    assert answer.status_code == 409
    assert answer.json()["code"] == "job_finished"
    assert answer.headers["x-should-retry"] == "false"


def test_failed_job_can_be_submitted_again_as_a_new_one(service):
    with service.worker(answer=fails).running():
        job = service.predict(headers={"Prefer": "wait"}).json()
    again = service.client.post(job["urls"]["get"] + "/retry")
    assert again.status_code == 201
    assert again.json()["retry_of"] == job["id"]
    assert again.json()["id"] != job["id"]


def test_retry_that_waits_is_told_of_the_end_at_once(service):
    with service.worker(answer=fails).running():
        job = service.predict(5, 6, headers={"Prefer": "wait"}).json()
    with service.worker(delay_s=0.5).running():
        began = time.monotonic()
        again = service.client.post(job["urls"]["get"] + "/retry", headers={"Prefer": "wait=50"}).json()
    assert (again["status"], again["output"]) == ("succeeded", {"value": 11})
    assert time.monotonic() - began < 40


def test_replay_that_waits_is_told_of_the_end_at_once(service):
    key = {"Idempotency-Key": new_id()}
    first = service.predict(6, 7, headers=key).json()
    with service.worker(delay_s=0.5).running():
        began = time.monotonic()
        again = service.predict(6, 7, headers={**key, "Prefer": "wait=50"}).json()
        assert (again["id"], again["output"]) == (first["id"], {"value": 13})
        assert time.monotonic() - began < 40
        ended = service.predict(6, 7, headers={**key, "Prefer": "wait=20"}).json()
    assert ended["output"] == {"value": 13}


def test_retry_under_one_key_makes_one_new_job(service):
    with service.worker(answer=fails).running():
        job = service.predict(headers={"Prefer": "wait"}).json()
    headers = {"Idempotency-Key": new_id()}
    first, second = (service.client.post(job["urls"]["get"] + "/retry", headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"] != job["id"]
    assert second.headers["Idempotency-Replayed"] == "true"


# --- idempotency --------------------------------------------------------------------------------------------


def test_same_key_same_body_is_the_same_job(service):
    headers = {"Idempotency-Key": new_id()}
    first, second = (service.predict(5, 6, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


def test_same_key_other_body_is_refused(service):
    headers = {"Idempotency-Key": new_id()}
    assert service.predict(1, 1, headers=headers).status_code == 201
    answer = service.predict(1, 2, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_mismatch"


def test_replayed_wait_is_held_too(service):
    headers = {"Idempotency-Key": new_id(), "Prefer": "wait=10"}
    first = service.predict(7, 8, headers={"Idempotency-Key": headers["Idempotency-Key"]}).json()
    with service.worker(delay_s=0.3).running():
        second = service.predict(7, 8, headers=headers).json()
    assert second["id"] == first["id"]
    assert second["output"] == {"value": 15}


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_idempotency_key_of_no_use_is_refused(service, key):
    answer = service.predict(headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["field"] == "Idempotency-Key"


# --- streams ------------------------------------------------------------------------------------------------


def read_stream(service, url, **headers):
    with service.client.stream("GET", url, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_stream_gives_the_output_then_done(service):
    job = service.predict(3, 4).json()
    with service.worker(delay_s=0.3).running():
        events = read_stream(service, job["urls"]["stream"])
    assert [event["event"] for event in events] == ["output", "done"]
    assert all(event["id"] for event in events)
    assert json.loads(events[0]["data"]) == {"value": 7}


def test_stream_of_a_failed_job_is_an_error_with_its_sentence(service):
    job = service.predict().json()
    with service.worker(answer=fails).running():
        events = read_stream(service, job["urls"]["stream"])
    assert (events[0]["event"], events[0]["data"]) == ("error", "The image does not decode.")
    assert events[-1]["event"] == "done"


def test_events_tell_each_state_live_and_go_on_after_the_last_seen(service):
    job = service.predict().json()
    with service.worker(delay_s=0.2).running():
        events = read_stream(service, job["urls"]["events"])
    words = [json.loads(event["data"])["event"] for event in events if event["event"] == "state"]
    assert words == ["submit", "claim", "complete"]
    assert (events[-1]["event"], json.loads(events[-1]["data"])) == ("done", "succeeded")
    rest = read_stream(service, job["urls"]["events"], **{"Last-Event-ID": events[0]["id"]})
    assert rest == events[1:]


def test_unreadable_last_event_id_is_refused(service):
    job = service.predict().json()
    answer = service.client.get(job["urls"]["events"], headers={"Last-Event-ID": "soon"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "Last-Event-ID"


# --- lists --------------------------------------------------------------------------------------------------


def test_pages_hold_every_job_once_newest_first(service):
    made = [service.predict().json()["id"] for _ in range(7)]
    seen, url = [], f"{service.url}/v1/predictions?limit=3"
    while url:
        page = service.client.get(url).json()
        assert len(page["results"]) <= 3
        seen += [job["id"] for job in page["results"]]
        url = page["next"]
    assert seen[:7] == made[::-1]
    assert len(seen) == len(set(seen))


def test_pages_of_files_hold_every_file_once(service):
    made = [service.upload(b"a,b\n1,2\n").json()["id"] for _ in range(5)]
    seen, url = [], f"{service.url}/v1/files?limit=2"
    while url:
        page = service.client.get(url).json()
        assert len(page["results"]) <= 2
        seen += [file["id"] for file in page["results"]]
        url = page["next"]
    assert seen[:5] == sorted(made, reverse=True)
    assert len(seen) == len(set(seen))


def test_previous_page_leads_back(service):
    for _ in range(4):
        service.predict()
    first = service.client.get("/v1/predictions?limit=2").json()
    second = service.client.get(first["next"]).json()
    back = service.client.get(second["previous"]).json()
    assert [job["id"] for job in back["results"]] == [job["id"] for job in first["results"]]


def test_lists_are_filtered(service):
    canceled = service.predict().json()
    service.client.post(canceled["urls"]["cancel"])
    for query in ("status=canceled", "state=canceled", f"status=canceled&model={MODEL}", f"version={VERSION}"):
        ids = [job["id"] for job in service.client.get(f"/v1/predictions?{query}").json()["results"]]
        assert canceled["id"] in ids, query
    for query in ("status=processing", f"model={IMAGE_MODEL}", "before=2020-01-01T00:00:00Z", "kind=training"):
        path = "/v1/jobs" if "kind" in query else "/v1/predictions"
        ids = [job["id"] for job in service.client.get(f"{path}?{query}").json()["results"]]
        assert canceled["id"] not in ids, query


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "status=aborted", "state=starting", "after=soon", "cursor=zzz", "colour=red"]
)
def test_filter_that_makes_no_sense_is_refused_by_name(service, query):
    answer = service.client.get(f"/v1/predictions?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == query.partition("=")[0]


# --- foreign and gone ---------------------------------------------------------------------------------------


def test_job_of_another_account_does_not_exist(service):
    job = service.predict().json()
    stranger = {"Authorization": f"Bearer {OTHER_KEY}"}
    path = f"/v1/predictions/{job['id']}"
    for method, url in (
        ("GET", path),
        ("POST", path + "/cancel"),
        ("GET", path + "/events"),
        ("POST", path + "/retry"),
    ):
        assert service.client.request(method, url, headers=stranger).status_code == 404, url
    assert service.client.get("/v1/predictions", headers=stranger).json()["results"] == []
    assert service.client.get(path).json()["state"] == "queued"


def test_deleted_record_is_gone_and_says_how_it_ended(service):
    job = service.predict().json()
    service.client.post(job["urls"]["cancel"])
    age(service.core.store.client, 25 * 3600 * 1000)
    service.core.store.gc()
    answer = service.client.get(job["urls"]["get"])
    assert answer.status_code == 410
    assert "canceled" in answer.json()["detail"]


def test_long_waiting_job_says_why(service):
    job = service.predict().json()
    time.sleep(0.25)
    told = service.client.get(job["urls"]["get"]).json()["queue"]
    assert told["reason"] == "no live predict worker"


# --- many at once -------------------------------------------------------------------------------------------


def test_waiters_of_one_job_are_all_told(service):
    job = service.predict(20, 22).json()
    outputs = []

    def wait():
        with httpx.Client(headers=service.client.headers) as client:
            outputs.append(client.get(job["urls"]["get"], params={"wait": 10}).json()["output"])

    threads = [threading.Thread(target=wait) for _ in range(12)]
    for thread in threads:
        thread.start()
    with service.worker(delay_s=0.3).running():
        for thread in threads:
            thread.join()
    assert outputs == [{"value": 42}] * 12


def test_large_input_and_output_go_through_storage(service):
    rows = [{"x": n, "y": 0.5} for n in range(20_000)]

    def echo(claim):
        assert claim.input == b""
        assert claim.input_ref
        stored = service.core.artifacts.read_bytes(f"{claim.input_ref}/input.json")
        assert len(json.loads(stored)["instances"]) == len(rows)
        ref = f"outputs/{claim.id}"
        service.core.artifacts.write_bytes(f"{ref}/output.json", json.dumps([{"value": 1}] * len(rows)).encode())
        return Completion(id=claim.id, token=claim.token, status=Status.SUCCEEDED, output_ref=ref)

    with service.worker(answer=echo).running():
        answer = service.client.post(
            "/v1/predictions", json={"version": VERSION, "input": {"instances": rows}}, headers={"Prefer": "wait"}
        )
        assert len(answer.json()["output"]) == len(rows), answer.text[:500]
        assert len(service.client.get(answer.json()["urls"]["get"]).json()["output"]) == len(rows)


def test_process_tells_its_figures(service):
    until = time.monotonic() + 10
    text = ""
    while "coatcheck_http_requests_total" not in text and time.monotonic() < until:
        text = service.client.get("/metrics").text
    assert 'coatcheck_queue_depth{kind="predict"}' in text
    assert 'route="/v1/predictions",status="201"' in text
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    explained = set(re.findall(r"`(coatcheck_[a-z_]+)", page))
    told = set(re.findall(r"^(coatcheck_(?!process_)[a-z_]+)", text, re.MULTILINE))
    assert len(told) > 7
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in told} <= explained


def test_head_is_answered_like_get_without_the_body(service):
    file = service.upload(b"a,b\n1,2\n").json()
    for path in ("/healthz", "/v1/models", file["urls"]["content"]):
        answer = service.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"]
