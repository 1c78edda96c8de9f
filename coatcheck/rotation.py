"""Everything that is kept, by the encryption key it is under; and all of it to the newest one.

Artifacts are rewritten file by file, each in one step, and values in Redis are sealed anew (`resealing.py`), so a
rotation may be killed at any moment and run again: it goes on where it was. It does not begin while a process that
lives has not the newest key, and no key is forgotten that one still writes under.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import redis

from coatcheck import keys
from coatcheck.artifacts import ArtifactStore
from coatcheck.encryption import Keyring
from coatcheck.errors import ArtifactDamaged, Conflict, FileNotFound
from coatcheck.keys_in_use import check_keys, check_processes, forget_key, note_key, written_under
from coatcheck.resealing import PLAIN, reseal, values_by_key
from coatcheck.sealed_values import Sealer

#: Without a manifest beside it a file may be one that is being written, until nobody has touched it for so long.
SETTLED_S = 60.0


@dataclass(slots=True, kw_only=True)
class Rotated:
    """What a rotation did, in files."""

    rewritten: int = 0
    #: Under the newest key before.
    newest: int = 0
    #: May be being written by a process that has another newest key: run again later.
    unsettled: list[str] = field(default_factory=list)
    #: What does not decrypt, with the sentence why; left as it is.
    damaged: dict[str, str] = field(default_factory=dict)
    #: Values in Redis that were sealed anew.
    values: int = 0
    #: Ids of keys that nothing is under any more.
    retired: list[str] = field(default_factory=list)
    #: Ids of keys that processes write under whose newest key is another, with their names.
    written: dict[str, list[str]] = field(default_factory=dict)


def files_by_key(artifacts: ArtifactStore) -> Counter[str]:
    """How many files lie under which key."""
    found: Counter[str] = Counter()
    for name in artifacts.names():
        try:
            key_id = artifacts.key_of(name)
        except FileNotFound:
            continue  # deleted meanwhile
        found[PLAIN if key_id is None else key_id.hex()] += 1
    return found


def rotate(
    artifacts: ArtifactStore,
    client: redis.Redis,
    names: Iterable[str],
    *,
    settled_s: float = SETTLED_S,
    force: bool = False,
) -> Rotated:
    """Bring these files, and what is in Redis, under the newest key; a key nothing is under is forgotten.

    With `force` it begins although a process that lives has not the newest key, and cannot read what is rewritten.

    Raises:
        Conflict: another rotation runs, or processes have not the newest key. NotEnoughSpace: run it again when there
            is some. SettingsError: the keyring lacks a key in use.
    """
    assert artifacts.keyring is not None
    newest = artifacts.keyring.newest
    if not force:
        check_processes(client, artifacts.keyring)
    _begin(client, artifacts.keyring, force=force)
    done = Rotated()
    with artifacts.rotating():
        for name in names:
            try:
                if artifacts.key_of(name) == newest:
                    done.newest += 1
                elif not artifacts.settled(name, settled_s):
                    done.unsettled.append(name)
                elif artifacts.rewrite(name):
                    done.rewritten += 1
                elif artifacts.exists(name):
                    done.unsettled.append(name)
            except FileNotFound:
                continue  # deleted meanwhile
            except ArtifactDamaged as error:
                done.damaged[name] = str(error)
        resealed = reseal(client, Sealer(artifacts.keyring), newest)
        done.values = resealed.values
        done.damaged |= resealed.damaged
        # Asked before what lies there is counted: who writes under an older key may do so until the end.
        done.written = {key: who for key, who in written_under(client).items() if key != newest.hex()}
        if not done.unsettled and not done.damaged:
            done.retired = _retire(artifacts, client, {newest.hex(), *done.written})
    return done


def _begin(client: redis.Redis, keyring: Keyring, *, force: bool) -> None:
    """Note the newest key as in use: from here on who starts without it is refused."""
    newest = keyring.newest
    known = client.hexists(keys.ENCRYPTION_KEYS, newest.hex())
    check_keys(client, keyring)
    if force:
        return
    try:
        check_processes(client, keyring)  # who started a moment ago has told so before it looked
    except Conflict:
        if not known and newest.hex() not in written_under(client):
            forget_key(client, newest)  # what was refused binds nobody
        raise


def _retire(artifacts: ArtifactStore, client: redis.Redis, stays: set[str]) -> list[str]:
    left = stays | set(files_by_key(artifacts)) | set(values_by_key(client))
    used = [key.decode() for key in cast(list[bytes], client.hkeys(keys.ENCRYPTION_KEYS))]
    retired = [key for key in used if key not in left]
    for key in retired:
        forget_key(client, bytes.fromhex(key))
    # Who started while all was counted may have found such a key still in use, and write under it.
    again = [key for key in retired if key in written_under(client)]
    for key in again:
        note_key(client, bytes.fromhex(key))
    return [key for key in retired if key not in again]
