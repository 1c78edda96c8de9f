"""Is this process up, and is the service ready: `/healthz`, `/readyz`, and the front page."""

from __future__ import annotations

import msgspec
import redis
from flask import Blueprint, Response

from coatcheck import liveness
from coatcheck.core import Core
from coatcheck.errors import CoatcheckError
from web.requests import core, json_response, off_loop
from web.version import NAME, VERSION

routes = Blueprint("health", __name__)

#: Kinds of worker that must live before the service is ready.
NEEDED = ("predict", "train", "io")


class Check(msgspec.Struct):
    """One thing the service needs."""

    ready: bool
    detail: str


class Readiness(msgspec.Struct):
    """Everything the service needs, each by name."""

    ready: bool
    checks: dict[str, Check]


@routes.get("/")
def front() -> Response:
    """What this is and where to go next."""
    base_url = core().settings.base_url
    page = {
        "name": NAME,
        "version": VERSION,
        "docs": f"{base_url}/docs",
        "openapi": f"{base_url}/openapi.json",
        "ready": f"{base_url}/readyz",
        "models": f"{base_url}/v1/models",
        "clients": f"REPLICATE_BASE_URL={base_url} with your key in REPLICATE_API_TOKEN",
    }
    return json_response(msgspec.json.encode(page))


@routes.get("/healthz")
def healthz() -> Response:
    """This process answers."""
    return json_response(b'{"status":"ok"}')


@routes.get("/readyz")
@off_loop
def readyz() -> Response:
    """200 when Redis, storage and a worker of each kind are there, else 503; each is named."""
    found = readiness(core())
    return json_response(msgspec.json.encode(found), 200 if found.ready else 503)


def readiness(app_core: Core) -> Readiness:
    """Look at each part once."""
    checks = {"redis": _redis(app_core), "storage": _storage(app_core), **_workers(app_core)}
    return Readiness(ready=all(check.ready for check in checks.values()), checks=checks)


def _redis(app_core: Core) -> Check:
    try:
        app_core.store.client.ping()
    except redis.exceptions.RedisError as error:
        return Check(ready=False, detail=f"does not answer ({type(error).__name__})")
    return Check(ready=True, detail="answers")


def _storage(app_core: Core) -> Check:
    try:
        app_core.artifacts.check()
    except (OSError, CoatcheckError) as error:
        return Check(ready=False, detail=f"cannot be written ({type(error).__name__})")
    return Check(ready=True, detail="can be written and read")


def _workers(app_core: Core) -> dict[str, Check]:
    try:
        alive = [process.kind for process in liveness.live(app_core.store.client)]
    except redis.exceptions.RedisError:
        return {f"worker-{kind}": Check(ready=False, detail="unknown: Redis does not answer") for kind in NEEDED}
    return {f"worker-{kind}": Check(ready=kind in alive, detail=f"{alive.count(kind)} alive") for kind in NEEDED}
