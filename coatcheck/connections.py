"""Redis clients from a URL. Timeouts are short and there are no hidden retries: callers decide."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(url: str, *, timeout_s: float = 1.5) -> redis.Redis:
    """A client for byte strings; calls fail after `timeout_s` and are not sent again.

    A script sent twice after a lost reply is harmless except `claim`, whose first reply would be lost work.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
