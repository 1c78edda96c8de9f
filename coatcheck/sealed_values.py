"""How inputs, outputs and what else speaks of them lie encrypted in Redis. Format 1, to the byte in docs/privacy.md.

    value  = 0xC3 "cs" 0x01 | key id (8) | salt (16) | counter, big-endian (8) | AES-256-GCM ciphertext, its tag (16)
    key    = HKDF-SHA-256(key, salt, info = "coatcheck value 1" 0x00), 32 bytes
    nonce  = zeros (4) | counter (8)
    additional data = what it is, 0x00, the id it belongs to

Each process has a salt of its own and counts its values, so no nonce comes twice, however many values there are; the
derived key is made once a process. A value that does not begin so is plain: written before there were keys, or by a
script. Pure: knows no Redis and no records.
"""

from __future__ import annotations

import base64
import itertools
import os
from functools import lru_cache
from weakref import WeakSet

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coatcheck.encryption import ID_BYTES, TAG_BYTES, Keyring
from coatcheck.errors import ArtifactDamaged
from coatcheck.sealed_fields import TEXT_MAGIC

MAGIC = b"\xc3cs\x01"
SALT_BYTES = 16
COUNTER_BYTES = 8
_HEAD_BYTES = len(MAGIC) + ID_BYTES + SALT_BYTES
_INFO = b"coatcheck value 1\0"
#: Derived keys of other processes that are remembered.
_REMEMBERED = 4096


class Sealer:
    """Seals and opens values under a keyring. For any number of threads."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._derived = lru_cache(_REMEMBERED)(self._derive)
        self._start()
        _ALL.add(self)

    def _start(self) -> None:
        salt = os.urandom(SALT_BYTES)
        #: One object, taken at once: a forked child must never count on under its parent's salt.
        self._own = (
            MAGIC + self._keyring.newest + salt,
            self._derive(self._keyring.newest, salt),
            itertools.count(),
        )

    def seal(self, value: bytes, what: str, of: str) -> bytes:
        """Encrypt a value; empty stays empty. It opens only as the same `what` of the same id."""
        if not value:
            return value
        head, cipher, counter = self._own
        number = next(counter).to_bytes(COUNTER_BYTES)
        return head + number + cipher.encrypt(b"\0\0\0\0" + number, value, f"{what}\0{of}".encode())

    def open(self, value: bytes, what: str, of: str) -> bytes:
        """The plain value; one that is plain already as it is.

        Raises:
            ArtifactDamaged: changed, moved here from elsewhere, or under a key that is not there.
        """
        if not value.startswith(MAGIC):
            if not value.startswith(TEXT_MAGIC):
                return value
            value = _of_text(value)
        body = _HEAD_BYTES + COUNTER_BYTES
        if len(value) < body + TAG_BYTES:
            raise _damaged(what, of)
        id_end = len(MAGIC) + ID_BYTES
        cipher = self._derived(value[len(MAGIC) : id_end], value[id_end:_HEAD_BYTES])
        try:
            return cipher.decrypt(b"\0\0\0\0" + value[_HEAD_BYTES:body], value[body:], f"{what}\0{of}".encode())
        except InvalidTag:
            raise _damaged(what, of) from None

    def seal_text(self, value: str, what: str, of: str) -> str:
        """The same for a value that goes through JSON or is read as text; `open` takes it too."""
        if not value:
            return value
        return (TEXT_MAGIC + base64.b64encode(self.seal(value.encode(), what, of))).decode()

    def _derive(self, of: bytes, salt: bytes) -> AESGCM:
        return self._keyring.derived(of, salt, _INFO)


def key_id_of(value: bytes) -> bytes | None:
    """Id of the key that a value is sealed under, given as bytes or as text; None for a plain one."""
    if value.startswith(TEXT_MAGIC):
        value = _of_text(value)
    return value[len(MAGIC) : len(MAGIC) + ID_BYTES] if value.startswith(MAGIC) else None


def _of_text(value: bytes) -> bytes:
    try:
        return base64.b64decode(value[len(TEXT_MAGIC) :], validate=True)
    except ValueError:
        return b""


def _damaged(what: str, of: str) -> ArtifactDamaged:
    return ArtifactDamaged(f"The {what} kept of {of} was changed after it was written.")


def _after_fork() -> None:
    for sealer in list(_ALL):
        sealer._start()  # noqa: SLF001 - of this module


_ALL: WeakSet[Sealer] = WeakSet()
os.register_at_fork(after_in_child=_after_fork)
