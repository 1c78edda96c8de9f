"""Two keys, an older and a newer, and what lies under them: stores, settings, a signature with a planted word."""

from __future__ import annotations

import base64
from pathlib import Path

import redis as redis_py

from coatcheck.encryption import Keyring
from coatcheck.sealed_values import Sealer
from coatcheck.settings import Settings
from coatcheck.signature import NumberInput, Signature, Tensor
from coatcheck.store import JobStore

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
OLD_ID, NEW_ID = Keyring([OLD]).newest.hex(), Keyring([NEW]).newest.hex()


def store_under(redis: redis_py.Redis, *under: bytes) -> JobStore:
    """A store with these keys, the newest first, or without any."""
    return JobStore(redis, sealer=Sealer(Keyring(list(under))) if under else None)


def settings_under(home: Path, redis_url: str, *under: bytes) -> Settings:
    """Settings with these keys and a storage folder `root` in the home."""
    keys = ",".join(base64.b64encode(key).decode() for key in under)
    return Settings(home=home, redis_url=redis_url, storage_url=f"file://{home / 'root'}", encryption_keys=keys)


def signature_with(word: str) -> Signature:
    """A classification of one number, one of whose classes is the word."""
    return Signature(
        task="classification",
        inputs=(NumberInput(name="x"),),
        graph_inputs=(Tensor(name="input", datatype="FP32", shape=(-1, 1)),),
        graph_outputs=(Tensor(name="probabilities", datatype="FP32", shape=(-1, 2)),),
        classes=(word, "other"),
    )
