"""Models, versions and aliases over HTTP: promoted, rolled back, compared, downloaded, deleted."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from registering import publish
from web_service import OTHER_KEY, web_service

from coatcheck.catalog.entries import BASE_MODELS
from coatcheck.settings import Settings

STRANGER = {"Authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):
    with web_service(Settings(home=tmp_path_factory.mktemp("home"), redis_url=redis_server)) as running:
        yield running


def aliases(service, name="", **body):
    path = f"/v1/models/me/sums/aliases{name and '/' + name}"
    return service.client.put(path, json=body) if body else service.client.get(path)


def test_version_is_promoted_used_and_rolled_back_in_one_call_each(service):
    first, second = (publish(service.core.store, digit, owner="me", name="sums") for digit in "12")
    assert aliases(service, "production", version=1, reason="first").status_code == 200
    moved = aliases(service, "production", version="latest", reason="better on the test set")
    told = moved.json()
    assert (told["version"], told["number"], told["by"]) == (second, 2, "me")
    assert told["reason"] == "better on the test set"
    job = {"input": {"x": 1, "y": 2}}
    newest = publish(service.core.store, "3", owner="me", name="sums")
    assert service.client.post("/v1/models/me/sums/predictions", json=job).json()["version"] == second
    for ref, wanted in (("production", second), ("1", first), ("latest", newest), (first, first)):
        answer = service.client.post("/v1/predictions", json={**job, "version": f"me/sums:{ref}"}).json()
        assert answer["version"] == wanted, "the job says which version answers"
    back = service.client.post("/v1/models/me/sums/aliases/production/rollback")
    assert (back.status_code, back.json()["version"]) == (200, first)
    assert service.client.post("/v1/models/me/sums/predictions", json=job).json()["version"] == first
    listed = aliases(service).json()["results"]
    assert [(alias["alias"], alias["number"]) for alias in listed] == [("latest", 3), ("production", 1)]
    assert aliases(service, "production").json() == listed[1]


def test_history_tells_every_move_and_its_pages_lead_on(service):
    publish(service.core.store, "4", owner="me", name="told")
    publish(service.core.store, "5", owner="me", name="told")
    own = "/v1/models/me/told/aliases/canary"
    for version in (1, 2, 1):
        assert service.client.put(own, json={"version": version, "reason": f"try {version}"}).status_code == 200
    page = service.client.get(own + "/history?limit=2").json()
    rest = service.client.get(page["next"]).json()
    changes = page["results"] + rest["results"]
    moves = [((change["from"] or {}).get("number"), change["to"]["number"]) for change in changes]
    assert moves == [(2, 1), (1, 2), (None, 1)]
    assert [change["reason"] for change in changes] == ["try 1", "try 2", "try 1"]
    assert {(change["action"], change["by"]) for change in changes} == {("promote", "me")}
    assert rest["next"] is None
    assert service.client.delete(own + "?reason=done").status_code == 204
    assert service.client.get(own).status_code == 404
    assert service.client.get(own + "/history").json()["results"][0]["reason"] == "done"


@pytest.mark.parametrize(
    ("name", "body", "status", "field"),
    [
        ("latest", {"version": "1"}, 409, "alias"),
        ("7", {"version": "1"}, 422, "alias"),
        ("a" * 64, {"version": "1"}, 422, "alias"),
        ("UP", {"version": "1"}, 422, "alias"),
        ("production", {"version": "99"}, 404, None),
        ("production", {"version": None}, 422, "version"),
        ("production", {"reason": "x"}, 422, "version"),
        ("production", {"version": "1", "reason": "x" * 501}, 422, "reason"),
        ("production", {"version": "1", "reason": 5}, 422, "reason"),
    ],
)
def test_move_that_cannot_be_made_says_why(service, name, body, status, field):
    answer = service.client.put(f"/v1/models/me/flowers/aliases/{name}", json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert len(answer.json()["detail"]) > 10


def test_aliases_are_nobody_elses(service):
    own = "/v1/models/me/flowers/aliases"
    assert service.client.put(own + "/mine", json={"version": "1"}).status_code == 200
    for call in (
        lambda: service.client.get(own, headers=STRANGER),
        lambda: service.client.get(own + "/mine/history", headers=STRANGER),
        lambda: service.client.put(own + "/mine", json={"version": "1"}, headers=STRANGER),
        lambda: service.client.post(own + "/mine/rollback", headers=STRANGER),
        lambda: service.client.delete(own + "/mine", headers=STRANGER),
    ):
        assert call().status_code == 404
    assert service.client.get("/v1/models/catalog/cnn/aliases").json()["results"] == []
    assert service.client.put("/v1/models/catalog/cnn/aliases/x", json={"version": "1"}).status_code == 403


def test_deletion_names_what_depends_on_the_version(service):
    publish(service.core.store, "6", owner="me", name="kept")
    own = "/v1/models/me/kept"
    service.client.put(own + "/aliases/production", json={"version": 1})
    refused = service.client.delete(own + "/versions/1")
    assert refused.status_code == 409
    assert "alias production" in refused.json()["detail"]
    service.client.delete(own + "/aliases/production")
    publish(service.core.store, "7", owner="me", name="finer", base="6" * 64)
    assert "me/finer version 1" in service.client.delete(own + "/versions/1").json()["detail"]
    assert service.client.delete(own + "/versions/1?leave_trained_on=true").status_code == 204
    assert service.client.delete(own).status_code == 204


# --- files --------------------------------------------------------------------------------------------------

FILES = {
    "model.onnx": b"graph" * 50_000,
    "model.int8.onnx": b"small",
    "model.ort": b"mobile",
    "signature.json": b"{}",
    "card.json": b'{"title": "sums"}',
}


@pytest.fixture(scope="module")
def stored(service):
    """Path of a version whose files are in storage."""
    publish(service.core.store, "8", owner="me", name="stored")
    version = service.core.registry.version("me", "me", "stored", "1")
    artifacts = service.core.artifacts
    told = {name: artifacts.write_bytes(f"{version.prefix}/{name}", content) for name, content in FILES.items()}
    files = {name: {"size": file.size, "sha256": file.sha256} for name, file in told.items()}
    artifacts.write_manifest(version.prefix, {"kind": "version", "files": files})
    return "/v1/models/me/stored/versions/1"


def test_version_lists_its_files_with_size_and_digest(service, stored):
    told = service.client.get(stored).json()
    assert [(file["name"], file["variant"]) for file in told["files"]] == [
        ("model.onnx", "onnx"),
        ("model.int8.onnx", "int8"),
        ("model.ort", "ort"),
        ("card.json", None),
        ("signature.json", None),
    ]
    for file in told["files"]:
        content = FILES[file["name"]]
        assert (file["size"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert service.client.get(file["url"]).content == content
    assert (told["aliases"], told["base"], told["urls"]["card"][-5:]) == (["latest"], None, "/card")


def test_download_names_its_file_and_goes_on_where_it_broke(service, stored):
    whole = service.client.get(stored + "/download")
    assert whole.content == FILES["model.onnx"]
    assert whole.headers["content-disposition"].endswith("me-stored-v1.onnx")
    digest = base64.b64encode(hashlib.sha256(FILES["model.onnx"]).digest()).decode()
    assert whole.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert whole.headers["digest"] == f"sha-256={digest}"
    etag = whole.headers["etag"]
    rest = service.client.get(stored + "/download", headers={"Range": "bytes=100000-", "If-Range": etag})
    assert (rest.status_code, rest.headers["content-range"]) == (206, "bytes 100000-249999/250000")
    assert FILES["model.onnx"][:100000] + rest.content == whole.content
    assert service.client.get(stored + "/download", headers={"If-None-Match": etag}).status_code == 304
    small = service.client.get(stored + "/download?variant=int8")
    assert small.content == b"small"
    assert small.headers["content-disposition"].endswith("me-stored-v1.int8.onnx")
    assert service.client.get(stored + "/download?variant=ort").headers["content-disposition"].endswith("v1.ort")


def test_file_that_is_not_there_is_told_with_those_that_are(service, stored):
    refused = service.client.get(stored + "/download?variant=fp16")
    assert (refused.status_code, refused.json()["field"]) == (422, "variant")
    assert refused.json()["detail"].endswith("this version has onnx, int8, ort")
    refused = service.client.get(stored + "/download?file=../../manifest.json")
    assert (refused.status_code, refused.json()["field"]) == (422, "file")
    assert service.client.get("/v1/models/catalog/cnn/versions/1/download").status_code == 404
    assert service.client.get("/v1/models/me/flowers/versions/1/download").status_code == 404
    assert service.client.get("/v1/models/me/flowers/versions/1").json()["files"] == []
    assert service.client.get(stored + "/download", headers=STRANGER).status_code == 404


def test_card_is_json_or_markdown(service, stored):
    for told in ({"headers": {"Accept": "text/markdown"}}, {"params": {"format": "md"}}):
        answer = service.client.get(stored + "/card", **told)
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.text.startswith("# Model card\n\nsums")
    assert service.client.get(stored + "/card?format=html").json()["field"] == "format"
    answer = service.client.get(stored + "/card")
    assert (answer.json(), answer.headers["content-type"]) == ({"title": "sums"}, "application/json")
    assert service.client.get("/v1/models/me/flowers/versions/1/card").status_code == 404
    assert service.client.get("/v1/models/catalog/cnn/versions/1/card").status_code == 404


# --- imports ------------------------------------------------------------------------------------------------

ONNX = b"\x08\x08 whatever it is: web does not look"
listed = pytest.mark.skipif("import" not in BASE_MODELS, reason="catalog/import is not listed yet")


@listed
def test_uploaded_file_becomes_a_training_of_the_catalogs_import(service):
    file = service.upload(ONNX, "net.onnx").json()["id"]
    body = {"file": file, "task": "classification", "labels": ["a", "b"], "inputs": {"x": {"kind": "image"}}}
    answer = service.client.post("/v1/models/me/net/versions", json=body)
    told = answer.json()
    assert (answer.status_code, told["model"], told["destination"]) == (201, "catalog/import", "me/net")
    del body["file"]
    assert told["input"] == {"dataset": file, **body}
    by_url = {"file": f"{service.url}/v1/files/{file}"}
    assert service.client.post("/v1/models/me/net/versions", json=by_url).status_code == 201


@listed
def test_file_sent_with_the_request_is_kept_and_imported_once_a_key(service):
    def send(content=ONNX, **fields):
        return service.client.post(
            "/v1/models/me/net/versions",
            files={"content": ("net.onnx", content, "application/octet-stream")},
            data=fields,
            headers={"Idempotency-Key": "once"},
        )

    first, again = send(labels='["a", "b"]', task="classification"), send(labels='["a", "b"]', task="classification")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    given = first.json()["input"]
    assert (given["labels"], given["task"]) == (["a", "b"], "classification")
    assert service.client.get(f"/v1/files/{given['dataset']}/content").content == ONNX
    kept = [file["id"] for file in service.client.get("/v1/files").json()["results"] if file["name"] == "net.onnx"]
    assert given["dataset"] in kept
    assert send(ONNX + b"x").status_code == 422


@listed
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "file"),
        ({"file": "nothing"}, 404, "file"),
        ({"file": "https://elsewhere.example/net.onnx"}, 422, "file"),
        ({"file": "x", "task": "magic"}, 422, "task"),
        ({"file": "x", "label": ["a"]}, 422, None),
    ],
)
def test_import_that_cannot_be_says_why(service, body, status, field):
    answer = service.client.post("/v1/models/me/net/versions", json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert "input.dataset" not in answer.text
    for fields in ({"labels": "a, b"}, {"tusk": "raw"}):
        answer = service.client.post("/v1/models/me/net/versions", files={"content": ("n.onnx", ONNX)}, data=fields)
        assert (answer.status_code, answer.json()["field"]) == (422, next(iter(fields)))
    names = [file["name"] for file in service.client.get("/v1/files").json()["results"]]
    assert "n.onnx" not in names, "a refused upload is not kept"


@listed
def test_nobody_imports_into_anothers_model(service):
    file = service.upload(ONNX, "net.onnx").json()["id"]
    answer = service.client.post("/v1/models/other/net/versions", json={"file": file})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


# --- compare ------------------------------------------------------------------------------------------------


def test_versions_are_compared_by_number_alias_and_id(service):
    for digit, accuracy in (("9", 0.9), ("a", 0.95)):
        told = {"task": "classification", "metrics": {"accuracy": accuracy}, "export": {"latency_ms": 0.1}}
        publish(service.core.store, digit, owner="me", name="rivals", metrics=json.dumps(told))
        version = service.core.registry.version("me", "me", "rivals", "latest")
        lineage = {"dataset": {"sha256": "d"}, "options": {"epochs": 1 if digit == "9" else 2}}
        stored = service.core.artifacts.write_bytes(f"{version.prefix}/model.onnx", b"x" * 10)
        files = {"model.onnx": {"size": 10, "sha256": stored.sha256}}
        service.core.artifacts.write_manifest(version.prefix, {"files": files, "lineage": lineage})
    service.client.put("/v1/models/me/rivals/aliases/production", json={"version": 1})
    answer = service.client.get("/v1/models/me/rivals/compare?versions=production,2,latest")
    told = answer.json()
    assert answer.status_code == 200, answer.text
    assert [(one["number"], one["aliases"]) for one in told["versions"]] == [(1, ["production"]), (2, ["latest"])]
    (accuracy,) = [one for one in told["table"] if one["name"] == "accuracy"]
    assert (accuracy["values"], accuracy["best"]) == ([0.9, 0.95], [1])
    assert (told["options"], told["same_test_rows"]) == ({"epochs": [1, 2]}, True)
    assert "Option epochs: 1 in version 1, 2 in version 2." in told["differences"]


@pytest.mark.parametrize("query", ["", "?versions=1", "?versions=,,", "?versions=" + "1," * 21])
def test_comparison_needs_two_versions(service, query):
    answer = service.client.get("/v1/models/me/flowers/compare" + query)
    assert (answer.status_code, answer.json()["field"]) == (422, "versions")


def test_comparison_with_a_version_that_is_not_there_names_it(service):
    answer = service.client.get("/v1/models/me/flowers/compare?versions=1,77")
    assert answer.status_code == 404
    assert "'77'" in answer.json()["detail"]
    assert service.client.get("/v1/models/me/flowers/compare?versions=1,latest", headers=STRANGER).status_code == 404
    assert service.client.get("/v1/models/catalog/cnn/compare?versions=1,latest").status_code == 404


def test_a_base_model_says_when_to_take_it_and_gives_an_input_that_works(service):
    told = service.client.get("/v1/models/catalog/cnn").json()["catalog"]
    assert told["example"]["image_shape"] == [8, 8]
    assert "catalog/mlp" in told["when_not"]
    assert all(told[name] for name in ("title", "wants"))


def test_versions_are_measured_on_the_same_rows_by_a_training(service):
    for digit in ("e", "f"):
        publish(service.core.store, digit, owner="me", name="measured", metrics='{"recipe": "mlp"}')
    file = service.upload(b"x,y,sum\n1,2,3\n").json()["id"]
    body = {"versions": [1, "latest", 2], "dataset": file, "target": "sum"}
    answer = service.client.post("/v1/models/me/measured/compare", json=body)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["model"], told["destination"]) == ("catalog/compare", "me/measured")
    assert told["input"] == {"dataset": file, "versions": ["e" * 64, "f" * 64], "target": "sum"}


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"versions": [1]}, 422, "versions"),
        ({"versions": [1, "1"]}, 422, "versions"),
        ({"versions": [1, 99]}, 404, None),
        ({"dataset": "nothing"}, 404, "dataset"),
        ({"dataset": None}, 422, "dataset"),
    ],
)
def test_measuring_that_cannot_be_says_why(service, change, status, field):
    body = {"versions": [1, 2], "dataset": "x", **change}
    answer = service.client.post("/v1/models/me/rivals/compare", json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
