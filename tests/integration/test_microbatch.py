"""Micro-batches run by ONNX Runtime itself: packed, split again, and a failure found without harm to the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tiny_versions import Graph, image, lookup, png_uri

from coatcheck.claims import Claimed
from coatcheck.errors import NotEnoughSpace
from coatcheck.jobs import Status
from workers.microbatch import MOST_ROWS_A_RUN, BatchRunner
from workers.sessions import CPU, LoadedSession, open_session


def session_of(graph: Graph) -> LoadedSession:
    return LoadedSession(
        version="v" * 64,
        signature=graph.signature,
        provider=CPU,
        cost_bytes=0,
        session=open_session(graph.content, CPU, 1),
    )


def no_files(file_id: str) -> bytes:
    raise AssertionError(f"nobody asked for the file {file_id}")


def runner(
    read_file: Callable[[str], bytes] = no_files,
    store_output: Callable[[Claimed, bytes], str] = lambda _job, _content: "",
) -> BatchRunner:
    return BatchRunner(read_input=lambda job: job.input, read_file=read_file, store_output=store_output)


def claim(name: str, given: Any) -> Claimed:
    content = given if isinstance(given, bytes) else json.dumps(given).encode()
    return Claimed(id=name, token=f"1:{name}", input=content, input_ref="", rows=1, limit_ms=0, attempt=1)


def test_singles_and_lists_of_inputs_share_a_run_and_keep_their_form():
    batches = runner()
    jobs = [
        claim("one", {"x": 1}),
        claim("many", {"instances": [{"x": 2}, {"x": 3}]}),
        claim("list", {"instances": [{"x": 4}]}),
    ]
    done = {completion.id: completion for completion in batches.run(session_of(lookup()), jobs)}
    assert json.loads(done["one"].output) == {"value": 10.0}
    assert json.loads(done["many"].output) == [{"value": 20.0}, {"value": 30.0}]
    assert json.loads(done["list"].output) == [{"value": 40.0}]
    assert (batches.runs, batches.rows) == (1, 4)
    assert {completion.provider for completion in done.values()} == {CPU}
    assert {completion.token for completion in done.values()} == {"1:one", "1:many", "1:list"}


@pytest.mark.parametrize(
    ("given", "code"),
    [(b"{", "invalid_input"), ({"x": "much"}, "invalid_input"), ({"y": 1}, "unknown_field"), ({}, "invalid_input")],
)
def test_input_that_does_not_fit_fails_alone_with_its_code(given, code):
    batches = runner()
    done = {d.id: d for d in batches.run(session_of(lookup()), [claim("bad", given), claim("good", {"x": 5})])}
    assert (done["bad"].status, done["bad"].code) == (Status.FAILED, code)
    assert done["bad"].error
    assert json.loads(done["good"].output) == {"value": 50.0}
    assert batches.runs == 1


def test_every_image_may_be_bad():
    jobs = [claim(str(number), {"image": png_uri(number, damaged=True)}) for number in range(3)]
    batches = runner()
    done = batches.run(session_of(image()), jobs)
    assert [completion.status for completion in done] == [Status.FAILED] * 3
    assert batches.runs == 0


def test_uploaded_image_is_read_by_its_id():
    import base64

    asked = []

    def read_file(file_id: str) -> bytes:
        asked.append(file_id)
        return base64.b64decode(png_uri(200).partition(",")[2])

    given = {"image": "http://127.0.0.1:8000/v1/files/abc123"}
    (done,) = runner(read_file=read_file).run(session_of(image()), [claim("one", given)])
    assert asked == ["abc123"]
    assert json.loads(done.output) == {"value": 200.0}


@pytest.mark.parametrize("culprits", [{0}, {15}, {3, 9}, set(range(16))], ids=["first", "last", "two", "all"])
def test_halving_finds_exactly_the_culprits(culprits):
    jobs = [claim(str(number), {"x": 500 if number in culprits else number}) for number in range(16)]
    done = {int(completion.id): completion for completion in runner().run(session_of(lookup()), jobs)}
    assert {number for number in done if done[number].status is Status.FAILED} == culprits
    assert {done[number].code for number in culprits} == {"run_failed"}
    for number in set(range(16)) - culprits:
        assert json.loads(done[number].output) == {"value": 10.0 * number}


def test_more_rows_than_a_run_takes_are_joined_again():
    rows = MOST_ROWS_A_RUN * 2 + 5
    batches = runner()
    (done,) = batches.run(session_of(lookup()), [claim("one", {"instances": [{"x": n % 100} for n in range(rows)]})])
    assert json.loads(done.output) == [{"value": 10.0 * (n % 100)} for n in range(rows)]
    assert (batches.runs, batches.rows) == (3, rows)


def test_output_that_was_stored_is_not_sent_along():
    stored = {}

    def store_output(job: Claimed, content: bytes) -> str:
        stored[job.id] = content
        return f"outputs/{job.id}/1" if job.id == "large" else ""

    jobs = [claim("large", {"x": 1}), claim("small", {"x": 2})]
    done = {d.id: d for d in runner(store_output=store_output).run(session_of(lookup()), jobs)}
    assert (done["large"].output, done["large"].output_ref) == (b"", "outputs/large/1")
    assert (done["small"].output, done["small"].output_ref) == (b'{"value":20.0}', "")
    assert stored["large"] == b'{"value":10.0}'


def test_full_storage_is_nobodys_bad_input():
    def store_output(_job: Claimed, _content: bytes) -> str:
        raise NotEnoughSpace

    with pytest.raises(NotEnoughSpace):
        runner(store_output=store_output).run(session_of(lookup()), [claim("one", {"x": 1})])
