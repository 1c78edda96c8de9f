"""The Flask app as people first write it: `.delay` on POST, `AsyncResult` on GET.

Knows nothing of the model.
"""

from __future__ import annotations

from typing import Any

from celery.result import AsyncResult
from flask import Flask, request

from benchmarks.baseline.first_tasks import app as celery_app
from benchmarks.baseline.first_tasks import predict

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """Answers when the process does."""
    return {"status": "ok"}


@app.post("/v1/predictions")
def create() -> tuple[dict[str, Any], int]:
    """Enqueue one task; its id is the ticket."""
    body = request.get_json()
    image = body.get("input", {}).get("image")
    if not isinstance(image, list) or len(image) != 8 or any(len(row) != 8 for row in image):
        return {"error": "image must be 8 x 8"}, 422
    result = predict.delay(image)
    return {"id": result.id, "status": "starting"}, 201


@app.get("/v1/predictions/<job_id>")
def read(job_id: str) -> dict[str, Any]:
    """Where the task stands, with its output once it has one."""
    result = AsyncResult(job_id, app=celery_app)
    if result.state == "SUCCESS":
        return {"id": job_id, "status": "succeeded", "output": result.result}
    if result.state == "FAILURE":
        return {"id": job_id, "status": "failed", "error": str(result.result)}
    return {"id": job_id, "status": "starting"}
