"""Rows: from `coatcheck run` to ready, and the first answer of a model that no worker has loaded yet."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path

import onnx

from benchmarks.bench import Bench
from benchmarks.model import Example
from benchmarks.ours import OurService, our_service
from benchmarks.report import Row
from coatcheck.store import JobStore

READY_TARGET_S = 5.0
COLD_TARGET_MS = 150.0
_COLD_VERSIONS = 3


def measure(bench: Bench) -> list[Row]:
    """A fresh service a round; in each, one first prediction of each of three versions."""
    ready, cold, wrong = [], [], 0
    models = [bench.model, *_variants(bench.model, _COLD_VERSIONS)]
    for number in range(bench.rounds):
        bench.say("a fresh start")
        home = bench.folder / f"fresh{number}"
        with our_service(home, models) as ours:
            ready.append(ours.ready_s)
            _first_answer(ours, ours.versions[0], bench.examples[0])  # warms the worker, not the others' sessions
            for version in ours.versions[1:]:
                took_ms, right = _first_answer(ours, version, bench.examples[1])
                cold.append(took_ms)
                wrong += not right
        shutil.rmtree(home, ignore_errors=True)
    return [
        Row(
            name="coatcheck run to ready",
            unit="s",
            ours=tuple(ready),
            other=(),
            against="the target itself",
            target=READY_TARGET_S,
            direction="at most",
            absolute=True,
        ),
        Row(
            name="first answer of a cold small model, after its claim",
            unit="ms",
            ours=tuple(cold),
            other=(),
            against="the target itself",
            target=COLD_TARGET_MS,
            direction="at most",
            absolute=True,
            faults=wrong,
            checked=len(cold),
        ),
    ]


def _variants(model: Path, count: int) -> list[Path]:
    """The same network under other digests, so that each is a version of its own."""
    paths = []
    for number in range(count):
        network = onnx.load(str(model))
        network.doc_string = f"variant {number}"
        path = model.with_name(f"variant{number}.onnx")
        onnx.save(network, str(path))
        paths.append(path)
    return paths


def _first_answer(ours: OurService, version: str, example: Example) -> tuple[float, bool]:
    """Milliseconds from claim to end of one prediction by the job's own record, and whether it is right."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{ours.port}/v1/predictions",
        data=b'{"version":"%s","input":{"image":%s}}' % (version.encode(), example.image_json),
        headers={"Authorization": f"Bearer {ours.key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - see above
        job_id = json.load(answer)["id"]
    store, deadline = JobStore(ours.redis), time.monotonic() + 60
    job = store.get(job_id)
    while job is None or not job.status.terminal:
        if time.monotonic() > deadline:
            raise TimeoutError("the first prediction of a fresh service did not end in 60 s")
        time.sleep(0.01)
        job = store.get(job_id)
    output = json.loads(job.output or b"{}")
    return float((job.ended_ms or 0) - (job.started_ms or 0)), output.get("label") == example.label
