"""The embedded server: it starts, is configured to lose nothing, and finds its data again."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import redis as redis_py

from coatcheck.embedded_redis import EmbeddedRedis, embedded_redis
from coatcheck.errors import StoreUnavailable


def test_server_refuses_to_lose_anything(redis):
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "hash-max-listpack-value": "2048",
        "enable-debug-command": "no",
    }
    found = {name: redis.config_get(name)[name] for name in wanted}
    assert found == wanted
    assert int(redis.config_get("maxmemory")["maxmemory"]) > 0


def test_what_was_written_is_there_after_kill_9(tmp_path):
    folder = tmp_path / "redis"
    server = EmbeddedRedis(folder, memory_bytes=64 * 1024**2)
    server.prepare()
    process = subprocess.Popen(server.command(), stdout=subprocess.DEVNULL)
    server.wait(process=process)
    with redis_py.Redis.from_url(server.url) as client:
        client.set("accepted", "job")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert server.socket.exists(), "the dead server leaves its socket behind"
    with embedded_redis(folder, memory_bytes=64 * 1024**2) as url, redis_py.Redis.from_url(url) as client:
        assert client.get("accepted") == b"job"


def test_socket_is_for_its_owner_alone(tmp_path):
    with embedded_redis(tmp_path / "redis", memory_bytes=64 * 1024**2):
        assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "redis" / "redis.sock").stat().st_mode) == 0o700


def test_second_server_in_the_same_folder_is_refused(tmp_path):
    with embedded_redis(tmp_path / "redis", memory_bytes=64 * 1024**2) as url:
        with pytest.raises(StoreUnavailable, match="already runs"), embedded_redis(tmp_path / "redis"):
            pass
        with redis_py.Redis.from_url(url) as client:
            assert client.ping()


def test_very_long_home_still_gets_a_socket(tmp_path):
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    with embedded_redis(folder, memory_bytes=64 * 1024**2) as url, redis_py.Redis.from_url(url) as client:
        assert client.config_get("dir")["dir"] == str(folder)
    assert not Path(EmbeddedRedis(folder).socket).exists()


def test_socket_left_by_a_dead_process_is_replaced(tmp_path):
    server = EmbeddedRedis(tmp_path / "redis")
    server.folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket))
    server.prepare()
    assert not server.socket.exists()


def test_server_that_cannot_start_is_named_with_its_log(tmp_path):
    folder = tmp_path / "redis"
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(StoreUnavailable, match="ended with"), embedded_redis(folder):
        pass
