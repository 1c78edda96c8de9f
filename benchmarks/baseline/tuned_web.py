"""The same Flask app tuned honestly: msgspec instead of json, one read of the result backend a poll.

Knows nothing of the model. Runs on the same server settings as our web tier.
"""

from __future__ import annotations

import msgspec
from flask import Flask, Response, request

from benchmarks.baseline.decode import decode_request
from benchmarks.baseline.tuned_tasks import app as celery_app
from benchmarks.baseline.tuned_tasks import predict

app = Flask(__name__)
_encode = msgspec.json.Encoder().encode


@app.get("/healthz")
def healthz() -> Response:
    """Answers when the process does."""
    return Response(b"{}", mimetype="application/json")


@app.post("/v1/predictions")
def create() -> Response:
    """Enqueue one task; its id is the ticket."""
    image = decode_request(request.get_data())
    result = predict.apply_async((image,), retry=False)
    return Response(_encode({"id": result.id, "status": "starting"}), 201, mimetype="application/json")


@app.get("/v1/predictions/<job_id>")
def read(job_id: str) -> Response:
    """Where the task stands, with its output once it has one: one GET to Redis."""
    record = celery_app.backend.get_task_meta(job_id)
    answer = {"id": job_id, "status": "starting"}
    if record["status"] == "SUCCESS":
        answer = {"id": job_id, "status": "succeeded", "output": record["result"]}
    elif record["status"] == "FAILURE":
        answer = {"id": job_id, "status": "failed", "error": str(record["result"])}
    return Response(_encode(answer), mimetype="application/json")
