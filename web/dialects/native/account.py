"""The caller's account, the hardware, and the secret of its webhooks, in the native dialect."""

from __future__ import annotations

from flask import Blueprint, Response

from coatcheck import liveness
from coatcheck.wire.native import encode
from coatcheck.wire.native_objects import AccountObject, HardwareObject, SecretObject
from web.requests import caller, core, json_response, off_loop

routes = Blueprint("account", __name__)


@routes.get("/v1/account")
def get_account() -> Response:
    """Whose key this is."""
    account = caller().account
    return json_response(encode(AccountObject(username=account, name=account)))


@routes.get("/v1/hardware")
@off_loop
def list_hardware() -> Response:
    """What jobs run on here: the CPU, and the GPU when a live worker has one."""
    found = [HardwareObject(sku="cpu", name="CPU")]
    if any(
        process.figures.get("provider") == "CUDAExecutionProvider" for process in liveness.live(core().store.client)
    ):
        found.append(HardwareObject(sku="gpu", name="Nvidia GPU"))
    return json_response(encode(found))


@routes.get("/v1/webhooks/default/secret")
def get_webhook_secret() -> Response:
    """The secret that signs this account's webhooks."""
    secret = core().accounts.webhook_secret(caller().account)
    return json_response(encode(SecretObject(key=secret)), headers={"Cache-Control": "no-store"})
