"""Rows: training steps per second, and dataset upload to first answer, against one cold process doing the same.

The data are scikit-learn's digits, the recipe is `catalog/cnn` with its default options.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bench import Bench
from benchmarks.ours import OurService
from benchmarks.publish import ACCOUNT
from benchmarks.report import Row, rounds_of
from benchmarks.services import ROOT
from examples import digits

STEPS_TARGET = 0.95
FIRST_ANSWER_TARGET = 1.2
_OPTIONS: dict[str, Any] = {"target": "digit", "image_shape": [8, 8]}


def measure(bench: Bench) -> list[Row]:
    """One training a round by each; both answer the first image, whose label is known."""
    ours = bench.ours
    images, labels = digits.load()
    path = bench.folder / "digits.csv"
    path.write_bytes(digits.to_csv(images, labels))
    rounds = rounds_of(
        bench.rounds,
        lambda: _through_the_service(bench, ours, path, images[0]),
        lambda: _plain(bench, path),
    )
    mine, theirs = ([found[index] for found in rounds] for index in (0, 1))
    wrong = sum(one["answer"] != labels[0] for one in [*mine, *theirs])
    both = len(mine) + len(theirs)
    return [
        Row(
            name="training steps",
            unit="steps/s",
            ours=tuple(one["steps_per_second"] for one in mine),
            other=tuple(one["steps_per_second"] for one in theirs),
            against="the same loop in a plain script",
            target=STEPS_TARGET,
            faults=wrong,
            checked=both,
        ),
        Row(
            name="dataset upload to first answer, digits",
            unit="s",
            ours=tuple(one["seconds"] for one in mine),
            other=tuple(one["seconds"] for one in theirs),
            against="one cold process doing the same",
            target=FIRST_ANSWER_TARGET,
            direction="at most",
            faults=wrong,
            checked=both,
            detail={"phases_s": [one["phases"] for one in mine]},
        ),
    ]


def _through_the_service(bench: Bench, ours: OurService, path: Path, image: list[list[float]]) -> dict[str, Any]:
    """Upload, train, predict over HTTP as any client would."""
    ours.settle()  # the child of the training before this one is replaced by a fresh one in advance
    bench.say("training, ours")
    headers = {"Authorization": f"Bearer {ours.key}"}
    base_url = f"http://127.0.0.1:{ours.port}"
    with httpx.Client(base_url=base_url, headers=headers, timeout=90, trust_env=False) as client:
        base = _checked(client.get("/v1/models/catalog/cnn"))["latest_version"]["id"]
        started = time.monotonic()
        file = _checked(client.post("/v1/files", files={"content": ("digits.csv", path.read_bytes(), "text/csv")}))
        body = {"destination": f"{ACCOUNT}/digits", "input": {"dataset": file["id"], **_OPTIONS}}
        training = _checked(client.post(f"/v1/models/catalog/cnn/versions/{base}/trainings", json=body))
        while training["status"] in ("starting", "processing"):
            training = _checked(client.get(f"/v1/trainings/{training['id']}?wait=60"))
        if training["status"] != "succeeded":
            raise RuntimeError(f"training: {training['error']}")
        version = training["output"]["version"].partition(":")[2]
        body = {"version": version, "input": {"image": image}}
        job = _checked(client.post("/v1/predictions", json=body, headers={"Prefer": "wait=30"}))
        seconds = time.monotonic() - started
    output = training["output"]
    return {
        "seconds": seconds,
        "steps_per_second": output["training"]["steps_per_second"],
        "answer": (job["output"] or {}).get("label"),
        "phases": output["seconds"],
    }


def _plain(bench: Bench, path: Path) -> dict[str, Any]:
    """The cold process, its start included."""
    bench.say("training, plain script")
    options = bench.folder / "options.json"
    options.write_text(json.dumps({"dataset": path.name, **_OPTIONS}))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plain_training", str(path), str(options)],
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"the plain training failed:\n{done.stderr.decode()[-2000:]}")
    return {**json.loads(done.stdout.decode().splitlines()[-1]), "seconds": seconds}


def _checked(response: httpx.Response) -> Any:
    if response.is_error:
        raise RuntimeError(
            f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}"
        )
    return response.json()
