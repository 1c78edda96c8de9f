"""Models whose serving through the Open Inference dialect is suspended until they are loaded again. Knows no jobs.

Remembered for a second: another process may serve so long after an unload.
"""

from __future__ import annotations

import time
from typing import cast

import redis

from coatcheck import keys

REMEMBERED_S = 1.0


class Unloaded:
    """The marks, by `owner/name`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._known: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._forgotten = 0

    def has(self, model: str) -> bool:
        """Its serving is suspended."""
        if time.monotonic() - self._read_at <= REMEMBERED_S:
            return model in self._known
        forgotten = self._forgotten
        known = frozenset(name.decode() for name in cast(set[bytes], self._client.smembers(keys.UNLOADED)))
        if forgotten == self._forgotten:  # else a mark was changed while this was on its way
            self._known, self._read_at = known, time.monotonic()
        return model in known

    def add(self, model: str) -> None:
        """Suspend its serving."""
        self._client.sadd(keys.UNLOADED, model)
        self.forget()

    def remove(self, model: str) -> None:
        """Serve it again."""
        self._client.srem(keys.UNLOADED, model)
        self.forget()

    def forget(self) -> None:
        """Look again at the next question."""
        self._forgotten += 1
        self._read_at = float("-inf")
