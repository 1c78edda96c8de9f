"""Debian's own redis-server, for the tests that an external Redis works; started privately, never as a service."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis as redis_py

needs_debian_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed: make system-packages"
)


@contextmanager
def debian_redis(folder: Path, *options: str) -> Iterator[tuple[redis_py.Redis, str]]:
    """A client of the server and its URL; with no options it has Debian's and Redis' defaults."""
    socket = folder / "debian.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"unix://{socket}"
    client = redis_py.Redis.from_url(url)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis_py.exceptions.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield client, url
    finally:
        client.close()
        process.terminate()
        process.wait(10)
