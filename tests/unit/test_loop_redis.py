"""The web process's one connection: what losing it for long must not use up."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import MaxConnectionsError

from coatcheck.connections import connect
from web.loop_redis import LoopRedis
from web.waits import Hub


def test_hundreds_of_failed_attempts_leave_the_next_one_possible(tmp_path):
    loop_redis = LoopRedis(connect(f"unix://{tmp_path}/nobody.sock"), Hub("web-1", 10))
    for _ in range(300):
        with pytest.raises(Disconnected) as refused:
            loop_redis._connect()
        assert not isinstance(refused.value, MaxConnectionsError)
