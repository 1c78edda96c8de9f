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
        self._forgotten = 0
        #: When they were read, what they were, and how often all was forgotten before that.
        self._read: tuple[float, frozenset[str], int] = (float("-inf"), frozenset(), 0)

    def has(self, model: str) -> bool:
        """Its serving is suspended."""
        read_at, known, forgotten = self._read
        if forgotten != self._forgotten or time.monotonic() - read_at > REMEMBERED_S:
            forgotten = self._forgotten  # a mark that changes while they are on their way is looked for again
            known = frozenset(name.decode() for name in cast(set[bytes], self._client.smembers(keys.UNLOADED)))
            self._read = (time.monotonic(), known, forgotten)
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
