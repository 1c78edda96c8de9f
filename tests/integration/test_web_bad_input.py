"""What cannot be done right is a 4xx that names its field: never a 500, never a lost job, nothing of our insides."""

from __future__ import annotations

import json
import socket
import time

import pytest
from web_service import IMAGE_VERSION, KEY, MODEL, OTHER_KEY, VERSION, web_service

from coatcheck.settings import Settings

IMAGE = [[0] * 8 for _ in range(8)]


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):

    settings = Settings(home=tmp_path_factory.mktemp("home"), redis_url=redis_server)
    with web_service(settings, upload_limit_bytes=300_000, json_limit_bytes=100_000) as running:
        yield running


def problem(answer, status, field=None):
    """The problem document, after the checks that hold for each."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told.get("field") == field, told
    for word in ("Traceback", ".py", "site-packages", "/home", "q:{c}"):
        assert word not in answer.text
    return told


def post(service, body, path="/v1/predictions", **kwargs):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.client.post(path, content=content, headers={"Content-Type": "application/json"}, **kwargs)


# --- inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"x": "1", "y": 2}, "input.x"),
        ({"x": None, "y": 2}, "input.x"),
        ({"x": True, "y": 2}, "input.x"),
        ({"x": [1], "y": 2}, "input.x"),
        ({"x": 1}, "input.y"),
        ({"x": 1, "y": 2, "z": 3}, "input.z"),
        ({"instances": []}, "input.instances"),
        ({"instances": [{"x": 1, "y": 2}, {"x": 1}]}, "input.instances[1].y"),
        ({"instances": {"x": 1}}, "input.instances"),
        ([], "input"),
        ("text", "input"),
        (None, "input"),
        (7, "input"),
    ],
)
def test_input_that_does_not_fit_the_signature_is_named(service, given, field):
    told = problem(post(service, {"version": VERSION, "input": given}), 422, field)
    assert len(told["detail"]) > 10


@pytest.mark.parametrize(
    "image",
    [
        [[0] * 8] * 7,
        [[0] * 8] * 7 + [[0] * 9],
        [0] * 64,
        [[["x"] * 8] * 8],
        "https://example.com/7.png",
        "data:image/png;base64,AAAA",
        "data:text/html,<b>",
        "file:///etc/passwd",
        {},
        [],
        5,
    ],
)
def test_image_of_another_shape_or_place_is_refused(service, image):
    problem(post(service, {"version": IMAGE_VERSION, "input": {"image": image}}), 422, "input.image")


def test_image_in_an_unknown_file_is_refused(service):
    url = f"{service.url}/v1/files/c00000000000000000000000000/content"
    answer = post(service, {"version": IMAGE_VERSION, "input": {"image": url}})
    assert answer.status_code == 404
    assert answer.json()["code"] == "file_not_found"


def test_image_in_a_foreign_file_is_refused(service):
    upload = service.client.post(
        "/v1/files", files={"content": ("7.png", b"x")}, headers={"Authorization": f"Bearer {OTHER_KEY}"}
    )
    answer = post(service, {"version": IMAGE_VERSION, "input": {"image": upload.json()["urls"]["get"]}})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"version=x", "not JSON"),
        (b'{"version": "x", "input": {"x": NaN, "y": 1}}', "NaN"),
        (b'{"version": "x", "input": {"x": Infinity, "y": 1}}', "Infinity"),
        (b"\xff\xfe", "not JSON"),
        (b'{"version": "v", "input": ' + b"[" * 45_000 + b"]" * 45_000 + b"}", "nested"),
        (b"{}", "is missing"),
        (b"null", "null"),
    ],
)
def test_malformed_body_is_refused_with_the_reason(service, body, words):
    answer = post(service, body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("number", ["1e39", "-1e308", "1e999", "9" * 400])
def test_number_beyond_the_graphs_floats_is_refused(service, number):
    body = b'{"version": "%s", "input": {"x": %s, "y": 1}}' % (VERSION.encode(), number.encode())
    answer = post(service, body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"].startswith("input")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("production", 422),
        ("", 422),
        ("c" * 64, 404),
        ("me/none", 404),
        (f"{MODEL}:none", 404),
        (f"{MODEL}:7", 404),
        ("catalog/mlp", 422),
        ("catalog/none", 404),
        ("../../etc", 422),
    ],
)
def test_version_that_is_not_there_is_told_so(service, version, status):
    answer = post(service, {"version": version, "input": {"x": 1, "y": 2}})
    assert answer.status_code == status, answer.text


def test_foreign_model_does_not_exist(service):
    answer = service.client.post(
        "/v1/predictions",
        json={"version": VERSION, "input": {"x": 1, "y": 2}},
        headers={"Authorization": f"Bearer {OTHER_KEY}"},
    )
    assert answer.status_code == 404


# --- keys, methods, places ----------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", KEY, "Bearer wrong", "Bearer a b"])
def test_missing_or_malformed_key_gets_one_helpful_sentence(service, header):
    headers = {} if header is None else {"Authorization": header}
    with service.client.__class__(base_url=service.url) as bare:
        answer = bare.get("/v1/predictions", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["title"] == "Unauthenticated"
    assert "Authorization: Bearer <key>" in answer.json()["detail"]


def test_wrong_method_says_which_ones_are_right(service):
    told = problem(service.client.put("/v1/predictions"), 405)
    assert "GET, POST" in told["detail"]


def test_trailing_slash_is_told_the_right_address(service):
    told = problem(service.client.get("/v1/predictions/"), 404)
    assert told["detail"].endswith("ask for /v1/predictions")


@pytest.mark.parametrize("job_id", ["x", "c" * 27, "..%2f..", "%00", "c" * 5000, "ü"])
def test_unknown_id_is_not_found(service, job_id):
    answer = service.client.get(f"/v1/predictions/{job_id}")
    assert answer.status_code == 404, answer.text


def test_request_id_is_taken_over_when_harmless(service):
    assert service.client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    odd = service.client.get("/healthz", headers={"X-Request-Id": "a" * 500}).headers["x-request-id"]
    assert odd != "a" * 500


# --- trainings ----------------------------------------------------------------------------------------------


def train(service, given, destination="me/new", model="catalog/mlp", version="1"):
    return post(
        service, {"input": given, "destination": destination}, f"/v1/models/{model}/versions/{version}/trainings"
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epochs": 0}, "input.epochs"),
        ({"epochs": "many"}, "input.epochs"),
        ({"epoch": 3}, "input.epoch"),
        ({"dataset": 7}, "input.dataset"),
        ({"dataset": "https://example.com/x.csv"}, "input.dataset"),
        ({"learning_rate": -1}, "input.learning_rate"),
        ({"hidden": []}, "input.hidden"),
    ],
)
def test_training_option_that_does_not_fit_is_named(service, change, field):
    file = service.upload(b"a,b\n1,2\n").json()
    problem(train(service, {"dataset": file["id"], **change}), 422, field)


@pytest.mark.parametrize(
    ("destination", "status"), [("new", 422), ("other/new", 422), ("me/UP", 422), ("me/stats", 422), ("catalog/x", 422)]
)
def test_destination_that_cannot_be_is_named(service, destination, status):
    file = service.upload(b"a,b\n1,2\n").json()
    problem(train(service, {"dataset": file["id"]}, destination), status, "destination")


def test_training_of_what_is_no_base_model_is_refused(service):
    assert train(service, {}, model="catalog/none").status_code == 404
    assert train(service, {}, version="9").status_code == 404
    assert train(service, {"dataset": "x"}, model=MODEL).status_code == 422
    problem(train(service, {"dataset": "c00000000000000000000000000"}), 404, "input.dataset")


def test_address_elsewhere_is_not_repeated(service):
    for address in ("https://ann:secret@example.com/x.csv", "//ann:secret@example.com/x.csv"):
        told = problem(train(service, {"dataset": address}), 422, "input.dataset")
        assert "secret" not in told["detail"]
        assert "example" not in told["detail"]


@pytest.mark.parametrize(("dataset", "status"), [("my.csv", 404), ("<file id>", 404), ("/tmp/my.csv", 422)])
def test_dataset_that_is_no_file_of_ours_is_told_what_was_expected(service, dataset, status):
    told = problem(train(service, {"dataset": dataset}), status, "input.dataset")
    assert dataset in told["detail"]
    assert "the id or the address that POST /v1/files answered" in told["detail"]


# --- bodies -------------------------------------------------------------------------------------------------


def test_huge_body_is_refused_before_it_is_sent(service):
    address = ("127.0.0.1", service.settings.port)
    with socket.create_connection(address, timeout=5) as link:
        link.sendall(
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
            b"Content-Length: 100000000000\r\n\r\n" % KEY.encode()
        )
        assert b" 413 " in link.recv(65536).split(b"\r\n")[0]


def test_huge_chunked_body_is_refused(service):
    def endless():
        for _ in range(100):
            yield b" " * 10_000

    answer = service.client.post("/v1/predictions", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_chunked_body_is_read_like_any_other(service):
    body = json.dumps({"version": VERSION, "input": {"x": 1, "y": 2}}).encode()
    answer = service.client.post("/v1/predictions", content=iter([body[:20], body[20:]]))
    assert answer.status_code == 201


def test_body_that_stops_does_not_hold_up_others(service):
    address = ("127.0.0.1", service.settings.port)
    with socket.create_connection(address, timeout=5) as link:
        link.sendall(
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{"
            % KEY.encode()
        )
        began = time.monotonic()
        assert service.predict().status_code == 201
        assert time.monotonic() - began < 10


# --- uploads ------------------------------------------------------------------------------------------------


def test_file_over_the_limit_is_refused_and_nothing_is_kept(service):
    before = service.client.get("/v1/files").json()["results"]
    answer = service.upload(b"x" * 320_000)
    assert answer.status_code == 413, answer.text
    assert service.client.get("/v1/files").json()["results"] == before


def test_file_far_over_the_limit_is_refused(service):
    assert service.upload(b"x" * 3_000_000).status_code == 413


def test_empty_file_is_refused(service):
    problem(service.upload(b""), 422, "content")


def test_form_without_the_file_is_told_what_is_missing(service):
    told = problem(service.client.post("/v1/files", files={"file": ("a.csv", b"1")}), 422, "content")
    assert "found a file called file; expected a file called content" in told["detail"]


@pytest.mark.parametrize("metadata", ["[1]", "not json", "7"])
def test_metadata_that_is_no_object_is_refused(service, metadata):
    problem(service.upload(b"a,b\n", metadata=metadata), 422, "metadata")


def test_metadata_behind_the_file_is_taken_too(service):
    boundary = "xyz"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="a.csv"\r\n'
        f"Content-Type: text/csv\r\n\r\na,b\r\n1,2\r\n\r\n--{boundary}\r\n"
        f'Content-Disposition: form-data; name="metadata"\r\n\r\n{{"k": 2}}\r\n--{boundary}--\r\n'
    )
    answer = service.client.post(
        "/v1/files", content=body.encode(), headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["metadata"] == {"k": 2}
    assert service.client.get(answer.json()["urls"]["content"]).content == b"a,b\r\n1,2\r\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disp"),
        ("multipart/form-data; boundary=x", b"nothing like it"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno header\r\n--x--\r\n"),
        ("application/json", b"{}"),
        ("text/csv", b"a,b\n1,2\n"),
    ],
)
def test_upload_that_is_no_form_is_refused(service, kind, body):
    answer = service.client.post("/v1/files", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422, answer.text


def test_file_of_another_account_does_not_exist(service):
    file = service.upload(b"a,b\n1,2\n").json()
    stranger = {"Authorization": f"Bearer {OTHER_KEY}"}
    for method, url in (("GET", "get"), ("GET", "content"), ("DELETE", "get")):
        assert service.client.request(method, file["urls"][url], headers=stranger).status_code == 404
    assert train_as(service, file, stranger).status_code == 404


def train_as(service, file, headers):
    body = {"input": {"dataset": file["id"]}, "destination": "other/x"}
    return service.client.post("/v1/models/catalog/mlp/versions/1/trainings", json=body, headers=headers)


@pytest.mark.parametrize(
    ("asked", "status", "told", "content"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=-99", 200, None, b"0123456789"),
        ("bytes=5-2", 200, None, b"0123456789"),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=99-120", 416, "bytes */10", None),
    ],
)
def test_range_is_sent_or_refused_with_the_size(service, asked, status, told, content):
    file = service.upload(b"0123456789").json()
    answer = service.client.get(file["urls"]["content"], headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
    if content is None:
        problem(answer, 416, "Range")
    else:
        assert answer.content == content


def test_uploaded_page_is_never_run_as_ours(service):
    file = service.client.post("/v1/files", files={"content": ("x.html", b"<script>1</script>", "text/html")}).json()
    answer = service.client.get(file["urls"]["content"])
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


# --- models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"owner": "me"}, "name"),
        ({"owner": "me", "name": "UP"}, "name"),
        ({"owner": "me", "name": "stats"}, "name"),
        ({"owner": "me", "name": "ok", "visibility": "hidden"}, "visibility"),
    ],
)
def test_model_that_cannot_be_is_named(service, body, field):
    problem(post(service, body, "/v1/models"), 422, field)


def test_models_of_others_cannot_be_made_or_removed(service):
    assert post(service, {"owner": "other", "name": "x"}, "/v1/models").status_code == 403
    assert service.client.delete("/v1/models/catalog/mlp").status_code in (403, 404)
    assert service.client.delete("/v1/models/other/x").status_code == 404


def test_model_in_use_stays(service):
    answer = service.client.delete(f"/v1/models/{MODEL}")
    assert answer.status_code == 409
    assert answer.json()["code"] == "model_in_use"


def test_nothing_above_was_a_fault_of_ours(service):
    """Runs last: the counters of the whole module."""
    text = service.client.get("/metrics").text
    assert [line for line in text.splitlines() if 'status="500"' in line] == []
