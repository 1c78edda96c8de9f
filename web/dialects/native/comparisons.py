"""Comparisons in the native dialect that measure: versions on the same rows, by a training of `catalog/compare`."""

from __future__ import annotations

from flask import Blueprint, Response

from coatcheck.catalog.comparing import ENTRY
from coatcheck.errors import InvalidInput
from coatcheck.version_files import check_published
from coatcheck.wire.native_comparison import CompareBody
from coatcheck.wire.native_requests import parse_model_name
from coatcheck.wire.reading import decode_body, field_named
from web.dialects.native.answers import show_submitted
from web.dialects.native.job_replies import webhook_of
from web.requests import body as request_body
from web.requests import caller, core, idempotency, off_loop

routes = Blueprint("comparisons", __name__)


@routes.post("/v1/models/<owner>/<name>/compare")
@off_loop
def create_comparison(owner: str, name: str) -> Response:
    """Measure versions (ids, aliases or numbers) on the labeled rows of a dataset; the answer is a training."""
    destination = parse_model_name(f"{owner}/{name}", "model")
    raw = request_body()
    body = decode_body(raw, CompareBody)
    app_core, account = core(), caller().account
    versions = []
    for reference in body.versions:
        found = app_core.registry.version(account, owner, name, str(reference))
        check_published(found)
        versions.append(found.id)
    versions = list(dict.fromkeys(versions))
    if len(versions) < 2:
        raise InvalidInput("versions name one version only; expected two or more", field="versions")
    given = {"dataset": body.dataset, "versions": versions, "target": body.target}
    with field_named("input.dataset", "dataset"):
        submitted = app_core.queue.submit_training(
            account,
            base_model=ENTRY.name,
            version="",
            destination=destination,
            given=given,
            idempotency=idempotency(raw),
            webhook=webhook_of(body),
        )
    return show_submitted(submitted)
