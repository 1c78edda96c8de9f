"""Which encryption keys this service keeps something under, and which each of its live processes has. Ids, never keys.

A start without a key in use is refused, and so is a rotation to a key that some process has not.
"""

from __future__ import annotations

import secrets
import socket
import time
from typing import cast

import redis

from coatcheck import keys, liveness
from coatcheck.encryption import Keyring
from coatcheck.errors import Conflict, SettingsError

#: Of a process's figures: the ids of its keys, the newest first.
FIGURE = "encryption_keys"
#: Until a process that starts has told of itself.
START_MS = 120_000


def check_keys(client: redis.Redis, keyring: Keyring | None) -> None:
    """Refuse a keyring that lacks a key in use, and note its newest as in use.

    A Redis that knows of none yet may be a new one over an old storage: there all are in use until a rotation has
    looked.

    Raises:
        SettingsError: names the missing key's id.
    """
    used = cast(list[bytes], client.hkeys(keys.ENCRYPTION_KEYS))
    have = {key.hex().encode() for key in keyring.ids} if keyring is not None else set()
    missing = sorted(key.decode() for key in used if key not in have)
    if missing:
        raise SettingsError(
            f"COATCHECK_ENCRYPTION_KEYS {'lacks' if keyring is not None else 'is not set and lacks'} "
            f"{', '.join(missing)}: what this service keeps is encrypted under it. Keep an old key in the list, behind "
            "the newest, until `coatcheck artifacts rotate` says that nothing is left under it"
        )
    if keyring is not None:
        for key_id in keyring.ids[: 1 if used else None]:
            note_key(client, key_id)


def start_with(client: redis.Redis, keyring: Keyring | None) -> str:
    """`check_keys` of a service or process that starts; it is told as live first, for two minutes.

    So a rotation that begins meanwhile sees it, or it sees the rotation's key in use.

    Returns:
        The name it is told as, for `liveness.forget` once its processes tell of themselves.

    Raises:
        SettingsError: as `check_keys`.
    """
    name = f"starting@{socket.gethostname()}.{secrets.token_hex(3)}"
    liveness.report(client, name, told_keys(keyring), live_ms=START_MS)
    try:
        check_keys(client, keyring)
    except SettingsError:
        liveness.forget(client, name)
        raise
    return name


def note_key(client: redis.Redis, key_id: bytes) -> None:
    """Something may lie under that key from now on."""
    client.hsetnx(keys.ENCRYPTION_KEYS, key_id.hex(), str(int(time.time() * 1000)))


def forget_key(client: redis.Redis, key_id: bytes) -> None:
    """Nothing is left under that key."""
    client.hdel(keys.ENCRYPTION_KEYS, key_id.hex())


def told_keys(keyring: Keyring | None) -> dict[str, list[str]]:
    """What a process tells of its keys with its sign of life."""
    return {FIGURE: [key.hex() for key in keyring.ids] if keyring is not None else []}


def processes_without(client: redis.Redis, keyring: Keyring) -> list[str]:
    """Names of live processes that have not the keyring's newest key, or do not tell."""
    newest = keyring.newest.hex()
    return [process.name for process in liveness.live(client) if newest not in process.figures.get(FIGURE, ())]


def check_processes(client: redis.Redis, keyring: Keyring) -> None:
    """Refuse to go on while a live process could not read what is encrypted under the newest key.

    Raises:
        Conflict: names those processes.
    """
    without = processes_without(client, keyring)
    if without:
        raise Conflict(
            f"These processes have not the newest key {keyring.newest.hex()} and could not read what is rewritten: "
            f"{', '.join(without)}. Restart them with it in COATCHECK_ENCRYPTION_KEYS (one that has ended may "
            f"be named for {liveness.LIVE_MS // 1000} seconds more, `starting@` for {START_MS // 1000}), or say --force"
        )


def written_under(client: redis.Redis) -> dict[str, list[str]]:
    """Ids of the keys that live processes write under, with their names."""
    found: dict[str, list[str]] = {}
    for process in liveness.live(client):
        for newest in process.figures.get(FIGURE, ())[:1]:
            found.setdefault(newest, []).append(process.name)
    return found
