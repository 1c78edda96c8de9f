"""Start of the whole service on this machine: checks, key, Redis, programs, and what is printed about it.

Refuses by name what would go wrong later: a home in use, a taken port, an unfit Redis. The rest is the supervisor's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import platform
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis

from coatcheck import keys
from coatcheck.accounts import Accounts, new_key
from coatcheck.child import say
from coatcheck.connections import connect
from coatcheck.embedded_redis import EmbeddedRedis
from coatcheck.errors import SettingsError, StoreUnavailable
from coatcheck.processes import Program, StopOrder, process_table
from coatcheck.redis_check import check_redis
from coatcheck.settings import PREFIX, Settings
from coatcheck.store import JobStore
from coatcheck.supervisor import Supervisor

#: The supervisor waits for no answer of Redis longer than this: deaths are to be noticed meanwhile.
REDIS_TIMEOUT_S = 0.5
REDIS_START_S = 30.0
#: A Redis that dies this often before it first answers will not start.
REDIS_START_DEATHS = 3
#: Not handed to children: the key is in Redis as a digest, and Granian copies its environment into every request.
PRIVATE_VARIABLES = frozenset({PREFIX + "API_KEY", PREFIX + "STANDBY"})


def run(settings: Settings, environ: Mapping[str, str]) -> None:
    """Run the service until SIGTERM or Ctrl-C; returns when every process has stopped.

    Raises:
        SettingsError: the home is in use, or the port is taken or cannot be bound.
        RedisUnfit: the Redis of COATCHECK_REDIS_URL would lose jobs.
        StoreUnavailable: Redis does not start or does not answer.
    """
    started = time.monotonic()
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_home(settings.home):
        check_port(settings.host, settings.port)
        _say_best_effort()
        client = connect(settings.effective_redis_url, timeout_s=REDIS_TIMEOUT_S)
        store = JobStore(client)
        supervisor = Supervisor(
            logs=settings.home / "logs",
            environment=_child_environment(environ),
            bury=lambda node: store.expire_worker(node + "/"),
            alive=lambda nodes: _alive(client, nodes),
            spares=False,
        )
        with supervisor:
            _run(supervisor, settings, client, started)
            if supervisor.stop_requests:
                say("stopping: web, workers, Redis (again to hurry)")
    say("stopped")


def _run(supervisor: Supervisor, settings: Settings, client: redis.Redis, started: float) -> None:
    if not settings.redis_url:
        _start_redis(supervisor, settings)
    _wait_for_redis(supervisor, settings, client)
    if supervisor.stop_requests:
        return
    for warning in check_redis(client):
        say(f"warning: {warning}")
    key, new = ensure_key(settings)
    Accounts(client).ensure(settings.account, key)
    supervisor.add(*process_table(settings))
    _wait_until_ready(supervisor, settings)
    supervisor.spares = True
    if not supervisor.stop_requests:
        say(*announcement(settings, key if new else "", time.monotonic() - started))
    while not supervisor.stop_requests:
        supervisor.turn(1.0)


def _start_redis(supervisor: Supervisor, settings: Settings) -> None:
    server = EmbeddedRedis(settings.home / "redis", memory_bytes=settings.redis_memory_bytes)
    deadline = time.monotonic() + 5
    while server.answers() and time.monotonic() < deadline:  # of a service that was killed: it is just ending
        time.sleep(0.05)
    server.prepare()
    supervisor.add(
        Program(
            name="redis",
            command=tuple(server.command()),
            stop_order=StopOrder.REDIS,
            quiet=True,
            grace_s=10.0,
        )
    )


def _wait_for_redis(supervisor: Supervisor, settings: Settings, client: redis.Redis) -> None:
    deadline = time.monotonic() + REDIS_START_S
    said_loading = False
    while not supervisor.stop_requests:
        try:
            client.ping()
            return
        except redis.exceptions.BusyLoadingError:
            deadline = time.monotonic() + REDIS_START_S
            if not said_loading:
                say("Redis loads its data ...")
                said_loading = True
        except redis.exceptions.AuthenticationError as error:
            raise SettingsError(f"COATCHECK_REDIS_URL: Redis refuses the login: {error}") from None
        except redis.exceptions.RedisError as error:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"no Redis answers at {_without_password(settings)}: {error}") from None
        if not settings.redis_url and supervisor.deaths >= REDIS_START_DEATHS:
            raise StoreUnavailable(f"the embedded Redis does not start; {supervisor.logs / 'redis.log'} says why")
        supervisor.turn(0.02)


def _wait_until_ready(supervisor: Supervisor, settings: Settings) -> None:
    began = time.monotonic()
    next_word = began + 20
    while not supervisor.stop_requests:
        status, body = _get_ready(settings)
        if status == 200:
            return
        if time.monotonic() > next_word:
            next_word += 20
            say(f"not ready after {time.monotonic() - began:.0f} s: {body or 'web does not answer yet'}")
        if time.monotonic() - began > 30:
            supervisor.spares = True
        supervisor.turn(0.05)


def _get_ready(settings: Settings) -> tuple[int, str]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - asked, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _alive(client: redis.Redis, nodes: Sequence[str]) -> list[bool]:
    try:
        return [value is not None for value in client.mget([keys.alive(node) for node in nodes])]
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(retry_after_s=1) from error


def _child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name not in PRIVATE_VARIABLES}
    return {**kept, "PYTHONUNBUFFERED": "1"}


@contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Hold the home's lock: one service a home.

    Raises:
        SettingsError: another process holds it.
    """
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise SettingsError(
                f"home {home} is in use by the service with pid {holder}; stop it or set COATCHECK_HOME"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def check_port(host: str, port: int) -> None:
    """Test that nobody listens there: Granian binds with SO_REUSEPORT, so two services would share a port silently.

    Raises:
        SettingsError: taken, not allowed, or no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"port {port} is taken on {host}; stop what uses it or set COATCHECK_PORT") from None
        if error.errno == errno.EACCES:
            raise SettingsError(f"port {port} may not be bound by this user; set COATCHECK_PORT") from None
        raise SettingsError(f"COATCHECK_HOST is {host!r}: {error.strerror or error}") from None


def ensure_key(settings: Settings) -> tuple[str, bool]:
    """The first admin key: the one set, else the one in the home, else a new one stored there (mode 600).

    Returns it and whether it was made just now.
    """
    if settings.api_key:
        return settings.api_key, False
    path = settings.home / "api-key"
    with contextlib.suppress(FileNotFoundError):
        if key := path.read_text().strip():
            return key, False
    key = new_key()
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    partial.replace(path)
    return key, True


def announcement(settings: Settings, new_api_key: str, seconds: float) -> list[str]:
    """What is printed when the service is ready; can be pasted. A key is shown only if it is new."""
    base = settings.base_url
    if new_api_key:
        token = new_api_key
    elif settings.api_key:
        token = '"$COATCHECK_API_KEY"'  # noqa: S105 - a name for the shell
    else:
        token = f'"$(cat {shlex.quote(str(settings.home / "api-key"))})"'
    lines = [
        "",
        f"Coatcheck is ready after {seconds:.1f} s at {base}",
        "",
        f"  export REPLICATE_API_TOKEN={token}",
        f"  export REPLICATE_BASE_URL={base}",
        "",
        '  curl -H "Authorization: Bearer $REPLICATE_API_TOKEN" $REPLICATE_BASE_URL/v1/account',
        '  curl -H "Authorization: Bearer $REPLICATE_API_TOKEN" $REPLICATE_BASE_URL/v1/models',
        "",
        f"  the API, to read and to try: {base}/docs",
        f"  state, models, key, logs:    {settings.home}",
        "",
    ]
    if new_api_key:
        lines.insert(
            -1, f"  This key is shown once; it is kept in {settings.home / 'api-key'} (readable by you alone)."
        )
    return lines


def _say_best_effort() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        say(f"{platform.system()} {platform.machine()} is best effort: no sandbox, and on macOS no parent-death signal")


def _without_password(settings: Settings) -> str:
    parts = urlsplit(settings.effective_redis_url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
