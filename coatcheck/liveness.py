"""Which worker processes live: each tells every few seconds, with its figures. Knows no jobs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, cast

import redis

from coatcheck import keys

LIVE_MS = 15_000
REPORT_PERIOD_S = 3.0
_SEEN = keys.PREFIX + "workers"
#: A script only for its flag: a plain SET is refused at `maxmemory`, and the silent would be taken for dead.
_REPORT = """#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProcess:
    """A process that told in the last 15 seconds. `name` begins with its kind: `predict@...`, `web@...`."""

    name: str
    figures: dict[str, Any]

    @property
    def kind(self) -> str:
        """predict, train, io, web, or starting."""
        return self.name.partition("@")[0]


def report(client: redis.Redis, name: str, figures: dict[str, Any], *, live_ms: int = LIVE_MS) -> None:
    """Tell that the process lives, with its counters and gauges; also while Redis is full."""
    client.eval(_REPORT, 2, keys.alive(name), _SEEN, json.dumps(figures), live_ms, time.time(), name)


def forget(client: redis.Redis, name: str) -> None:
    """The process stops in good order."""
    client.delete(keys.alive(name))
    client.zrem(_SEEN, name)


def live(client: redis.Redis) -> list[LiveProcess]:
    """All live processes, by name."""
    names = sorted(name.decode() for name in cast(list[bytes], client.zrange(_SEEN, 0, -1)))
    if not names:
        return []
    values = cast(list[bytes | None], client.mget([keys.alive(name) for name in names]))
    gone = [name for name, value in zip(names, values, strict=True) if value is None]
    if gone:
        client.zrem(_SEEN, *gone)
    return [
        LiveProcess(name=name, figures=json.loads(value))
        for name, value in zip(names, values, strict=True)
        if value is not None
    ]
