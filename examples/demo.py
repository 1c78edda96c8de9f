"""The whole loop on one machine: upload, train, export, publish, predict, score a file, be called back.

`make demo`; ARGS=--exit ends by itself.

Uses the public HTTP API only, as any client would.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec

from coatcheck.errors import CoatcheckError
from coatcheck.settings import Settings
from examples import digits
from examples.receiver import HOST, Receiver
from examples.service import Connections, DemoFailed, checked, client, running_service
from examples.training import console, train

MANY = 2000
CONCURRENT = 16
#: The file that is scored has every digit so often, and two rows that cannot be read.
COPIES = 3
SPOILED = (b"\nnot a number,", b"\nneither,")
NEEDED_ACCURACY = 0.97
CALLED_BACK_S = 30
#: A prediction takes milliseconds; a new version's first one loads it.
ANSWERED_S = 60
ALLOW = "COATCHECK_WEBHOOK_ALLOW"


def main() -> int:
    """Run the demo; 0 when everything came out right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the demo instead of serving on")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the service too, as Ctrl-C does
    _list_receiver()
    try:
        settings = Settings.from_env(os.environ)
        with running_service(settings) as service, client(settings) as http:
            show(http, settings)
            if not arguments.exit:
                _serve_on(service, settings)
    except KeyboardInterrupt:
        console.print("\nstopping")
    except (DemoFailed, CoatcheckError, httpx.HTTPError) as error:
        console.print(f"[red]the demo failed:[/red] {error}")
        return 1
    return 0


def show(http: httpx.Client, settings: Settings) -> None:
    """All steps, each printed with what it did."""
    started = time.monotonic()
    images, labels = digits.load()
    file = upload(http, images, labels)
    options = {"dataset": file["id"], "target": "digit", "image_shape": [8, 8]}
    training = train(http, "cnn", f"{settings.account}/digits", options)
    version = tell_training(training)
    tell_first_answer(time.monotonic() - started, predict_by_poll(http, version, images[0]), labels[0])
    predict_by_wait(http, version, images[1], labels[1])
    predict_many(http, version, images, labels)
    score_file(http, f"{settings.account}/digits", digits.to_csv(images * COPIES, labels * COPIES))
    receive_webhook(http, version, images[2], labels[2])
    tell_how_to_go_on(settings, training, version)


def _list_receiver() -> None:
    """Let the service call this program's receiver: an address inside is refused unless the operator lists it."""
    listed = [host for host in os.environ.get(ALLOW, "").split(",") if host]
    os.environ[ALLOW] = ",".join([*listed, HOST] if HOST not in listed else listed)


def upload(http: httpx.Client, images: list[list[list[float]]], labels: list[str]) -> dict[str, Any]:
    """Upload the digits as CSV."""
    content = digits.to_csv(images, labels)
    file: dict[str, Any] = checked(http.post("/v1/files", files={"content": ("digits.csv", content, "text/csv")}))
    console.print(
        f"[bold]uploaded[/bold]  digits.csv: {len(images)} images, {file['size'] / 1024:.0f} KiB, {file['id']}"
    )
    return file


def tell_training(training: dict[str, Any]) -> str:
    """Print the evidence; returns the version's id."""
    output = training["output"]
    test, rows, parity, seconds = output["metrics"], output["rows"], output["parity"], output["seconds"]
    reference: str = output["version"]
    console.print(f"[bold]published[/bold] {reference[:32]}...  (training {training['id']})")
    console.print(
        f"          test accuracy [bold]{test['accuracy']:.4f}[/bold] on {rows['test']} images never trained on "
        f"(macro F1 {test['macro_f1']:.4f}; always guessing one digit: {test['majority_accuracy']:.2f})"
    )
    wrong = [f"{pair['true']} taken for {pair['predicted']} x{pair['rows']}" for pair in test["worst_confusions"]]
    console.print(f"          worst confusions: {', '.join(wrong) or 'none'}")
    console.print(f"          parity of ONNX Runtime with PyTorch: {_parity(parity)}")
    console.print(
        f"          model.onnx {output['export']['bytes'] / 1024:.0f} KiB, opset {output['export']['opset']}; "
        + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    )
    if test["accuracy"] < NEEDED_ACCURACY:
        raise DemoFailed(f"test accuracy {test['accuracy']:.4f} is under {NEEDED_ACCURACY}")
    return reference.partition(":")[2]


def predict_by_poll(http: httpx.Client, version: str, image: list[list[float]]) -> dict[str, Any]:
    """Drop off a job, keep the ticket, pick up the result."""
    job: dict[str, Any] = checked(http.post("/v1/predictions", json={"version": version, "input": {"image": image}}))
    deadline = time.monotonic() + ANSWERED_S
    while job["status"] in ("starting", "processing"):
        if time.monotonic() > deadline:
            raise DemoFailed(f"prediction {job['id']} is {job['status']} after {ANSWERED_S} s")
        time.sleep(0.005)
        job = checked(http.get(f"/v1/predictions/{job['id']}"))
    if job["status"] != "succeeded":
        raise DemoFailed(f"prediction {job['id']}: {job['error']}")
    return job


def tell_first_answer(seconds: float, job: dict[str, Any], label: str) -> None:
    """Print the first prediction."""
    output = job["output"]
    sure = output["probabilities"][output["label"]]
    console.print(
        f"[bold]predicted[/bold] job {job['id']}: {output['label']} ({sure:.1%} sure, it is a {label}), "
        f"run by {job['provider']}; upload to first answer {seconds:.1f} s"
    )


def predict_by_wait(http: httpx.Client, version: str, image: list[list[float]], label: str) -> None:
    """The same in one request."""
    started = time.monotonic()
    body = {"version": version, "input": {"image": image}}
    job = checked(http.post("/v1/predictions", json=body, headers={"Prefer": "wait=10"}))
    took_ms = (time.monotonic() - started) * 1000
    console.print(f"          with Prefer: wait: {job['output']['label']} (it is a {label}) in {took_ms:.1f} ms")


def predict_many(http: httpx.Client, version: str, images: list[list[list[float]]], labels: list[str]) -> None:
    """2,000 jobs at once; each answer is compared with one prediction that holds all images."""
    body = {"version": version, "input": {"instances": [{"image": image} for image in images]}}
    reference = checked(http.post("/v1/predictions", json=body, headers={"Prefer": "wait=60"}))
    expected = [output["label"] for output in reference["output"]]
    before = _batches(http)
    started = time.monotonic()
    found = _submit_and_collect(http, version, images)
    took = time.monotonic() - started
    rows, runs = (now - then for now, then in zip(_batches(http, at_least=before[0] + MANY), before, strict=True))
    same = sum(found[number] == expected[number % len(images)] for number in range(MANY))
    right = sum(found[number] == labels[number % len(images)] for number in range(MANY))
    console.print(
        f"[bold]2,000 jobs[/bold] at once: {MANY / took:.0f} jobs/s, mean micro-batch {rows / max(runs, 1):.1f}, "
        f"{same} of {MANY} as expected, {right / MANY:.1%} show the right digit"
    )
    if same != MANY:
        raise DemoFailed(f"{MANY - same} of {MANY} answers differ: {Counter(found).most_common(12)}")


def _submit_and_collect(http: httpx.Client, version: str, images: list[list[list[float]]]) -> list[str]:
    bodies = [msgspec.json.encode({"version": version, "input": {"image": image}}) for image in images]
    connections = Connections(http)

    def submit(number: int) -> str:
        return str(connections.ask("POST", "/v1/predictions", bodies[number % len(bodies)])["id"])

    def collect(job_id: str) -> str:
        job = connections.ask("GET", f"/v1/predictions/{job_id}?wait=60")
        return str((job["output"] or {}).get("label", job["error"]))

    with ThreadPoolExecutor(CONCURRENT) as threads:
        ids = list(threads.map(submit, range(MANY)))
        return list(threads.map(collect, ids))


def _batches(http: httpx.Client, at_least: float = 0.0) -> tuple[float, float]:
    """Rows and runs of ONNX Runtime so far, from /metrics; workers tell every few seconds."""
    deadline = time.monotonic() + 8
    while True:
        text = http.get("/metrics").text
        rows = sum(float(value) for value in re.findall(r"^coatcheck_process_rows\{.*\} (\S+)$", text, re.MULTILINE))
        runs = sum(float(value) for value in re.findall(r"^coatcheck_process_runs\{.*\} (\S+)$", text, re.MULTILINE))
        if rows >= at_least or time.monotonic() > deadline:
            return rows, runs
        time.sleep(0.25)


def score_file(http: httpx.Client, model: str, content: bytes) -> None:
    """One call sends a file and starts a batch; its files come back by row, good ones and bad ones apart."""
    for text in SPOILED:
        content = content.replace(b"\n0,", text, 1)
    rows = content.count(b"\n") - 1
    started = time.monotonic()
    sent = http.post("/v1/batches", files={"file": ("digits-to-score.csv", content, "text/csv")}, data={"model": model})
    batch: dict[str, Any] = checked(sent)
    while batch["status"] in ("starting", "processing"):
        batch = checked(http.get(f"/v1/batches/{batch['id']}", params={"wait": 30}))
    took = time.monotonic() - started
    if batch["status"] != "succeeded":
        raise DemoFailed(f"batch {batch['id']}: {batch['error']}")
    scored = list(csv.DictReader(io.StringIO(http.get(batch["urls"]["output"]).text)))
    bad = http.get(batch["urls"]["errors"]).text.splitlines()
    right = sum(row["label"] == row["digit"] for row in scored)
    counted = batch["rows"]
    console.print(
        f"[bold]scored[/bold]    digits-to-score.csv in {took:.1f} s: {counted['total']} rows, "
        f"{counted['succeeded']} scored, {counted['failed']} failed; {right / len(scored):.1%} show the right digit"
    )
    console.print(f"          one that failed: {bad[0][:150]}...", markup=False)
    if (counted, len(scored), len(bad)) != (
        {"total": rows, "succeeded": rows - len(SPOILED), "failed": len(SPOILED)}, rows - len(SPOILED), len(SPOILED),
    ):  # fmt: skip
        raise DemoFailed(f"of {rows} rows {len(scored)} were scored and {len(bad)} failed: {counted}")


def receive_webhook(http: httpx.Client, version: str, image: list[list[float]], label: str) -> None:
    """Ask to be called back, and check the signature of the call."""
    secret = checked(http.get("/v1/webhooks/default/secret"))["key"]
    with Receiver(secret).running() as receiver:
        asked = {"webhook": receiver.url, "webhook_events_filter": ["completed"]}
        body = {"version": version, "input": {"image": image}, **asked}
        job = checked(http.post("/v1/predictions", json=body))
        try:
            event, told = receiver.received.get(timeout=CALLED_BACK_S)
        except queue.Empty:
            raise DemoFailed(f"no webhook came for {job['id']}; refused: {receiver.refused}") from None
    if (told["id"], told["status"]) != (job["id"], "succeeded"):
        raise DemoFailed(f"the webhook tells of {told['id']}, {told['status']}; expected {job['id']}")
    console.print(
        f"[bold]received[/bold]  webhook {event}: {told['output']['label']} (it is a {label}), signature valid; "
        f"{ALLOW}={HOST} was set for this receiver"
    )


def _parity(parity: dict[str, Any]) -> str:
    verdict = "passed" if parity["passed"] else "FAILED"
    sizes = ", ".join(str(size) for size in parity["batch_sizes"])
    return f"{verdict}, batches of {sizes}, largest difference {parity['max_difference']:.1e}"


def tell_how_to_go_on(settings: Settings, training: dict[str, Any], version: str) -> None:
    """Print what can be pasted."""
    base = settings.base_url
    key = '"$COATCHECK_API_KEY"' if settings.api_key else f'"$(cat {settings.home / "api-key"})"'
    console.print(
        "\nthe same with curl, while the service runs (python -m examples.digits rows.csv writes a file to score):",
        markup=False,
    )
    image = [[0.0] * 3 + [16.0] * 2 + [0.0] * 3] * 8
    body = msgspec.json.encode({"version": version, "input": {"image": image}}).decode()
    auth = '-H "Authorization: Bearer $REPLICATE_API_TOKEN"'
    lines = [
        f"  export REPLICATE_API_TOKEN={key} REPLICATE_BASE_URL={base}",
        f"  curl {auth} {base}/v1/trainings/{training['id']}",
        f"  curl {auth} -H 'Prefer: wait' -d '{body}' {base}/v1/predictions",
        f"  curl {auth} -F file=@rows.csv -F model={settings.account}/digits {base}/v1/batches",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"service {base}   API to try {base}/docs   state {settings.home}", markup=False)


def _serve_on(service: subprocess.Popen[bytes], settings: Settings) -> None:
    console.print(f"serving at {settings.base_url} until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        service.wait()


if __name__ == "__main__":
    sys.exit(main())
