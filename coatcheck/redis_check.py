"""Refuse a Redis whose settings would lose accepted jobs. Reads settings; changes nothing.

Settings are read with CONFIG GET, or from INFO where an operator has forbidden CONFIG.
"""

from __future__ import annotations

from typing import Any, cast

import redis

from coatcheck.errors import RedisUnfit, StoreUnavailable

OLDEST = (7, 0)


def check_redis(client: redis.Redis) -> list[str]:
    """What an operator should know about a server that may be used: one sentence each.

    Raises:
        RedisUnfit: it would lose jobs, or is older than 7.0; the message has the lines to change.
        StoreUnavailable: it does not answer.
    """
    try:
        info = client.info()
        config = _read_config(client, info)
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(f"Redis does not answer: {error}", retry_after_s=1) from error
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2])
    if version < OLDEST:
        raise RedisUnfit(f"Redis {info.get('redis_version')} is too old: 7.0 or newer is needed")
    _refuse(config)
    return _warnings(config)


def _read_config(client: redis.Redis, info: dict[str, Any]) -> dict[str, str]:
    try:
        answers = cast(dict[str, str], client.config_get("maxmemory*", "append*"))
        return {name: str(value) for name, value in answers.items()}
    except redis.exceptions.ResponseError:  # CONFIG is forbidden or renamed (NoPermissionError is one of these)
        return {
            "maxmemory-policy": str(info.get("maxmemory_policy", "")),
            "maxmemory": str(info.get("maxmemory", "")),
            "appendonly": "yes" if info.get("aof_enabled") else "no",
        }


def _refuse(config: dict[str, str]) -> None:
    wanted = {
        "maxmemory-policy": ("noeviction", "it may throw away records of accepted jobs when memory is full"),
        "appendonly": ("yes", "accepted jobs would be gone after a restart of Redis"),
    }
    wrong = {name: config.get(name, "") for name, (value, _) in wanted.items() if config.get(name) != value}
    if not wrong:
        return
    reasons = "; ".join(f"{name} is {found or 'unknown'}: {wanted[name][1]}" for name, found in wrong.items())
    lines = "\n".join(f"    {name} {wanted[name][0]}" for name in wrong)
    raise RedisUnfit(
        f"This Redis would lose jobs ({reasons}). Put into its redis.conf and restart it:\n{lines}\n"
        f"    appendfsync always\n(or leave COATCHECK_REDIS_URL empty: a fit server is then started for you)"
    )


def _warnings(config: dict[str, str]) -> list[str]:
    warnings = []
    fsync = config.get("appendfsync")
    if fsync not in ("always", None):
        warnings.append(
            f"Redis has `appendfsync {fsync}`: a power cut may lose jobs accepted in its last second or more. "
            "`appendfsync always` loses none."
        )
    if config.get("maxmemory") == "0":
        warnings.append("Redis has no `maxmemory`: it may grow until the machine is full. Set one.")
    return warnings
