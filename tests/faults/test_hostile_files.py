"""Hostile files through a whole service: each refused with a reason, quickly, and nothing of it stays.

`HOSTILE_FILES=all` sends every file to every route that takes its kind and prints a table; else it is a sample. All of
them are some ten minutes of two idle cores: a part is named by `HOSTILE_KINDS=png,jpg` and `HOSTILE_ROUTES=batch`.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from faults.hostile_files import Hostile, every_file
from faults.service import KEY, Service, running_service, until
from onnx import TensorProto, helper
from tiny_versions import Graph, image, publish, tenfold

from coatcheck.catalog.entries import BASE_MODELS
from coatcheck.signature import AudioInput, Signature, Tensor

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

ALL = os.environ.get("HOSTILE_FILES") == "all"
#: Of all files only those of these kinds and to these routes, joined by commas.
KINDS, ROUTES = os.environ.get("HOSTILE_KINDS", ""), os.environ.get("HOSTILE_ROUTES", "")
#: Longest that a file may be at work (the suite, on a busy machine, only tells an end from none), and what web
#: processes may grow by.
MOST_S, MOST_GROWTH = 10.0 if ALL else 120.0, 64 * 2**20
WAIT_S = 600.0
#: Codes that say: we did not know what we had in our hands.
UNFORESEEN = ("internal", "worker_lost", "crashed_worker", "io_error", "child_died", "lost")
TEXTS = b"text,label\n" + b"good day,yes\nbad day,no\n" * 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of a file on a route."""

    file: Hostile
    route: str
    #: refused, rows refused, or taken.
    outcome: str
    code: str
    sentence: str
    seconds: float
    attempts: int = 1

    @property
    def told(self) -> str:
        return f"{self.file.kind}: {self.file.name} -> {self.route}: {self.outcome} {self.code} in {self.seconds:.2f} s"


@dataclass
class Sender:
    """Sends files as a stranger would, each on a connection of its own."""

    service: Service
    texts: str = ""
    made: list[str] = field(default_factory=list)

    def upload(self, content: bytes, name: str) -> tuple[int, Any]:
        """As a form; answers with the status and the file."""
        mark = b"------------------------hostile"
        head = b'--%b\r\nContent-Disposition: form-data; name="content"; filename="%b"\r\n\r\n' % (mark, name.encode())
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=WAIT_S)
        try:
            connection.request(
                "POST",
                "/v1/files",
                head + content + b"\r\n--" + mark + b"--\r\n",
                {"Authorization": f"Bearer {KEY}", "Content-Type": f"multipart/form-data; boundary={mark.decode()}"},
            )
            answer = connection.getresponse()
            told = json.loads(answer.read() or b"{}")
        finally:
            connection.close()
        if answer.status == 201:
            self.made.append(told["id"])
        return answer.status, told

    def send(self, file: Hostile, route: str) -> Found:
        """The file to the route, until the job has ended."""
        content = file.make()  # some take seconds
        began = time.monotonic()
        status, answer = self.upload(content, file.filename)
        if status == 201:
            status, answer = getattr(self, f"_{route}")(answer["id"])
        if 400 <= status < 500:
            return Found(file=file, route=route, outcome="refused", code=str(answer.get("code", status)),
                         sentence=str(answer.get("detail", answer)), seconds=time.monotonic() - began)  # fmt: skip
        assert status in (200, 201), (file.kind, file.name, route, status, answer)
        found = self._judged(file, route, self._ended(answer))
        with (self.service.home.parent / "found.txt").open("a") as log:  # what was seen, if the rest is not
            log.write(f"{found.told}: {found.sentence[:160]}\n")
        return found

    def _dataset(self, file_id: str) -> tuple[int, Any]:
        return self._train("auto", {"dataset": file_id, "dry_run": True})

    def _encoder(self, file_id: str) -> tuple[int, Any]:
        given = {"dataset": self.texts, "encoder": file_id, "target": "label", "epochs": 1}
        return self._train("hugging_face", given)

    def _train(self, recipe: str, given: dict[str, Any]) -> tuple[int, Any]:
        path = f"/v1/models/catalog/{recipe}/versions/{BASE_MODELS[recipe].version}/trainings"
        return self._post(path, {"destination": "me/hostile", "input": given})

    def _batch(self, file_id: str) -> tuple[int, Any]:
        return self._post("/v1/batches", {"model": "me/tenfold", "input_file": file_id})

    def _openai(self, file_id: str) -> tuple[int, Any]:
        given = {"input_file_id": file_id, "endpoint": "/v1/models/me/tenfold/predictions", "completion_window": "24h"}
        status, answer = self._post("/openai/v1/batches", given)
        return (status, self._get(f"/v1/batches/{answer['id']}")) if status == 200 else (status, answer)

    def _import(self, file_id: str) -> tuple[int, Any]:
        return self._post("/v1/models/me/hostile/versions", {"file": file_id})

    def _image(self, file_id: str) -> tuple[int, Any]:
        given = {"image": f"http://127.0.0.1:{self.service.port}/v1/files/{file_id}"}
        return self._post("/v1/models/me/picture/predictions", {"input": given})

    def _sound(self, file_id: str) -> tuple[int, Any]:
        given = {"audio": f"http://127.0.0.1:{self.service.port}/v1/files/{file_id}"}
        return self._post("/v1/models/me/sound/predictions", {"input": given})

    def _post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.service.call("POST", path, body, timeout_s=WAIT_S)

    def _get(self, path: str) -> Any:
        status, answer = self.service.call("GET", path, timeout_s=WAIT_S)
        assert status == 200, (path, status, answer)
        return answer

    def _ended(self, job: dict[str, Any]) -> dict[str, Any]:
        path = job["urls"]["get"].partition("/v1/")[2]
        until(lambda: self._get(f"/v1/{path}?wait=10").get("completed_at"), WAIT_S, f"the end of {path}")
        return dict(self._get(f"/v1/{path}"))

    def _judged(self, file: Hostile, route: str, job: dict[str, Any]) -> Found:
        began, ended = (
            datetime.fromisoformat(job[name] or job["created_at"]) for name in ("started_at", "completed_at")
        )
        output = job.get("output") if isinstance(job.get("output"), dict) else {}
        refused = (output or {}).get("refused") or {}
        rows = job.get("rows") or {}
        self.made += [
            name for name in (job.get("output_file"), job.get("error_file")) if isinstance(name, str) and name
        ]
        outcome, code, sentence = "taken", "", ""
        if job["status"] == "failed" or refused:
            outcome = "refused"
            code, sentence = refused.get("code") or job["code"], refused.get("message") or job["error"]
        elif route in ("batch", "openai") and not rows.get("succeeded"):
            outcome, code, sentence = "rows refused", str(job.get("errors")), "each row says why"
        attempts = len(job.get("attempts") or [1])
        return Found(file=file, route=route, outcome=outcome, code=str(code), sentence=str(sentence),
                     seconds=(ended - began).total_seconds(), attempts=attempts)  # fmt: skip

    def delete_all(self) -> None:
        """Every file that was uploaded or made."""
        for made in self.made:
            self.service.call("DELETE", f"/v1/files/{made.rstrip('/').rpartition('/')[2]}")


def _sound_version() -> Graph:
    """`audio` [N, 800] -> `value`, its mean."""
    node = helper.make_node("ReduceMean", ["audio"], ["value"], axes=[1], keepdims=1)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["n", 800])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    signature = Signature(
        task="regression",
        inputs=(AudioInput(name="audio", sample_rate=8000, samples=800),),
        graph_inputs=(Tensor(name="audio", datatype="FP32", shape=(-1, 800)),),
        graph_outputs=(Tensor(name="value", datatype="FP32", shape=(-1, 1)),),
        targets=("mean",),
    )
    return Graph(content=made.SerializeToString(), signature=signature)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setattr(tempfile, "tempdir", None)
        with running_service(folder / "home", train_workers="2", retention_s="3600") as running:
            for graph, name in ((tenfold(), "tenfold"), (image(), "picture"), (_sound_version(), "sound")):
                publish(running.core, graph, name)
            yield running


def lasting(service: Service) -> set[int]:
    """Processes that no file may end: all but training children and what they start."""
    return {
        pid
        for pid, (_, line) in service.tree().items()
        if any(word in line for word in ("granian", "celery", "valkey"))
    }


def web_bytes(service: Service) -> int:
    """Resident memory of all web processes."""
    found = 0
    for pid in service.find("granian"):
        status = Path(f"/proc/{pid}/status").read_text()
        found += next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    return found


def left_on_disk(service: Service) -> set[str]:
    """Files in storage, in work folders and among temporary files."""
    roots = [service.home / "artifacts", service.home / "work", service.home.parent / "tmp"]
    return {str(path.relative_to(service.home.parent)) for root in roots for path in root.rglob("*") if path.is_file()}


def wanted() -> list[tuple[Hostile, str]]:
    """Files and routes."""
    files = every_file()
    if ALL:
        return [(file, route) for file in files for route in file.routes if _asked(KINDS, file.kind, ROUTES, route)]
    return [(file, file.sample) for file in files if file.sample]


def _asked(kinds: str, kind: str, routes: str, route: str) -> bool:
    """Both are named, or nothing is."""
    return (not kinds or kind in kinds.split(",")) and (not routes or route in routes.split(","))


def test_each_hostile_file_is_refused_with_a_reason_and_leaves_nothing(service, report):
    sender = Sender(service=service)
    status, told = sender.upload(TEXTS, "texts.csv")
    assert status == 201
    sender.texts = told["id"]
    sender.send(Hostile(kind="csv", name="a first one", make=lambda: b"x,y\n1,2\n" * 40, routes=("batch",)), "batch")
    sent = wanted()
    until(lambda: len(service.workers("train")) == 2 and len(service.workers("predict")) == 2, 60, "all workers")
    before, pids, memory = left_on_disk(service), lasting(service), web_bytes(service)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: sender.send(*one), sent))
    grown = web_bytes(service) - memory
    sender.delete_all()
    until(lambda: not more(service, before), 20, f"nothing is left; of {len(sent)} files")
    tell(found, grown, report)
    assert lasting(service) == pids, "no process that lasts has ended"
    assert grown < MOST_GROWTH, f"web grew by {grown / 2**20:.0f} MiB"
    assert [problem for one in found for problem in problems(one)] == [], "the table names them"


def more(service: Service, before: set[str]) -> set[str]:
    """Files that were not there before."""
    return left_on_disk(service) - before


def problems(found: Found) -> list[str]:
    """What is not as it should be."""
    harmless = found.route in found.file.harmless
    checks = {
        "was taken": found.outcome == "taken" and not harmless,
        f"was refused though it is harmless: {found.sentence}": found.outcome != "taken" and harmless,
        # What is harmless is worked through: the table tells how long that took.
        "took too long": found.seconds > (12 * MOST_S if harmless else MOST_S),
        f"took {found.attempts} attempts": found.attempts > 1 and found.route not in ("batch", "openai"),  # they park
        f"was not foreseen: {found.sentence}": found.code in UNFORESEEN
        or any(word in found.sentence for word in ("unexpected", "nobody foresaw")),
        f"has no reason: {found.sentence}": found.outcome != "taken" and len(found.sentence) < 12,
        "shows a trace": "Traceback" in found.sentence or "/" + "root" in found.sentence,
    }
    return [f"{found.told}: {what}" for what, wrong in checks.items() if wrong]


def tell(found: list[Found], grown: int, report: Callable[[str], None]) -> None:
    """The table: by kind, how many of each outcome, and the longest."""
    kinds: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        kinds[one.file.kind].append(one)
    report(
        f"{len(found)} sendings of {len({id(one.file) for one in found})} hostile files; "
        f"web grew {grown / 2**20:.1f} MiB"
    )
    report(f"{'kind':14}{'files':>6}{'sent':>6}{'refused':>9}{'rows':>6}{'harmless':>10}{'longest s':>11}")
    for kind, ones in kinds.items():
        counts = [sum(one.outcome == outcome for one in ones) for outcome in ("refused", "rows refused", "taken")]
        files = len({one.file.name for one in ones})
        longest = max(one.seconds for one in ones)
        report(f"{kind:14}{files:>6}{len(ones):>6}{counts[0]:>9}{counts[1]:>6}{counts[2]:>10}{longest:>11.2f}")
    for one in found:
        for problem in problems(one):
            report(f"PROBLEM {problem[:400]}")
        if ALL:
            report(f"{one.told}: {one.sentence[:160]}")
