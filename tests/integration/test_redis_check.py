"""A Redis that would lose jobs is refused with the lines to change; a fit one is taken."""

from __future__ import annotations

import pytest
import redis as redis_py
from debian_redis import debian_redis, needs_debian_redis

from coatcheck.errors import RedisUnfit, StoreUnavailable
from coatcheck.redis_check import check_redis


def test_embedded_server_is_fit(redis):
    assert check_redis(redis) == []


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("maxmemory-policy", "allkeys-lru", "    maxmemory-policy noeviction"),
        ("appendonly", "no", "    appendonly yes"),
    ],
)
def test_setting_that_loses_jobs_is_refused_with_the_line_to_change(redis, name, value, line):
    before = redis.config_get(name)[name]
    redis.config_set(name, value)
    try:
        with pytest.raises(RedisUnfit) as refusal:
            check_redis(redis)
    finally:
        redis.config_set(name, before)
    assert line in str(refusal.value).splitlines()


def test_everysec_is_allowed_with_a_warning(redis):
    redis.config_set("appendfsync", "everysec")
    try:
        warnings = check_redis(redis)
    finally:
        redis.config_set("appendfsync", "always")
    assert len(warnings) == 1
    assert "appendfsync everysec" in warnings[0]


def test_settings_are_read_from_info_where_config_is_forbidden(redis, redis_server):
    redis.acl_setuser("plain", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
    try:
        with redis_py.Redis.from_url(redis_server, username="plain", password="any") as limited:
            with pytest.raises(redis_py.exceptions.NoPermissionError):
                limited.config_get("appendonly")
            assert check_redis(limited) == []
            redis.config_set("maxmemory-policy", "volatile-ttl")
            with pytest.raises(RedisUnfit, match="maxmemory-policy noeviction"):
                check_redis(limited)
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.acl_deluser("plain")


def test_server_that_does_not_answer_is_unavailable(tmp_path):
    with redis_py.Redis.from_url(f"unix://{tmp_path}/none.sock") as client, pytest.raises(StoreUnavailable):
        check_redis(client)


@needs_debian_redis
def test_debians_redis_is_refused_as_it_comes_and_taken_with_the_lines_changed(tmp_path):
    with debian_redis(tmp_path) as (client, _), pytest.raises(RedisUnfit, match="appendonly yes"):
        check_redis(client)
    with debian_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "64mb") as (client, _):
        assert check_redis(client) == []
