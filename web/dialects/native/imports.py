"""Imports in the native dialect: an ONNX file or a folder becomes a version by a training of `catalog/import`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from coatcheck.job_queue import Submitted
from coatcheck.webhooks import Webhook
from coatcheck.wire.native_imports import IMPORT, ImportBody, form_options, import_input
from coatcheck.wire.native_requests import parse_model_name
from coatcheck.wire.reading import decode_body, field_named
from web.dialects.native.answers import show_submitted
from web.dialects.native.job_replies import webhook_of
from web.dialects.native.uploaded_jobs import submit_uploaded
from web.requests import body as request_body
from web.requests import caller, core, idempotency, off_loop

routes = Blueprint("imports", __name__)


@routes.post("/v1/models/<owner>/<name>/versions")
@off_loop
def create_version(owner: str, name: str) -> Response:
    """Import an ONNX file, or a Hugging Face folder as ZIP or tar.gz: a form with `content`, or JSON with a `file`."""
    destination = parse_model_name(f"{owner}/{name}", "model")
    if owner != caller().account:
        core().registry.own(caller().account, owner, name)
    if request.mimetype == "multipart/form-data":

        def submit(file_id: str, fields: dict[str, str], content: bytes) -> Submitted:
            return _submit(destination, {"dataset": file_id, **form_options(fields)}, content)

        return show_submitted(submit_uploaded("content", submit))
    raw = request_body()
    body = decode_body(raw, ImportBody)
    with field_named("input.dataset", "file"):
        submitted = _submit(destination, import_input(body), raw, webhook_of(body))
    return show_submitted(submitted)


def _submit(destination: str, given: dict[str, Any], content: bytes, webhook: Webhook | None = None) -> Submitted:
    return core().queue.submit_training(
        caller().account,
        base_model=IMPORT,
        version="",
        destination=destination,
        given=given,
        idempotency=idempotency(content),
        webhook=webhook,
    )
