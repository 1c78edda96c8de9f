"""Who asks: the Bearer key of a request, checked. What a key may do is `web/scopes.py`'s."""

from __future__ import annotations

from flask import request

from coatcheck.api_keys import Key
from coatcheck.errors import Unauthenticated
from coatcheck.key_check import KeyCheck

LONGEST_KEY = 512

_OTHER_SCHEMES = ("basic", "digest", "token", "apikey", "negotiate")
_HOW = "Send `Authorization: Bearer <key>`; the first key is in the file api-key of the service's home folder."


def authenticate(keys: KeyCheck) -> Key:
    """The key of the present request; raises as `check_header` does."""
    return check_header(keys, request.environ.get("HTTP_AUTHORIZATION", ""))


def check_header(keys: KeyCheck, header: str) -> Key:
    """The key in an `Authorization` header, empty for none.

    Raises:
        Unauthenticated: none was sent, it is not written as a Bearer key, it is unknown, revoked or expired.
        Forbidden: its account is disabled.
        StoreUnavailable: it cannot be looked up now.
    """
    if not header.strip():
        raise Unauthenticated(f"No key was sent. {_HOW}", field="Authorization")
    scheme, *rest = header.split(None, 1)
    key = rest[0].strip() if rest else ""
    if scheme.lower() != "bearer":
        # What stands there is named only where it can be no part of a key.
        known = f" as {scheme}" if scheme.lower() in _OTHER_SCHEMES else ""
        raise Unauthenticated(
            f"The key was sent{known} without the word Bearer before it. {_HOW}", field="Authorization"
        )
    if not key or len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthenticated(f"The key is malformed. {_HOW}", field="Authorization")
    return keys.authenticate(key)
