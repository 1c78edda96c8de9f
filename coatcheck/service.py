"""Start of the whole service on this machine: checks, key, Redis, programs, and what is printed about it.

Refuses by name what would go wrong later: a home in use, a taken port, an unfit Redis. The rest is the supervisor's.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import secrets
import shlex
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import redis

from coatcheck import key_handing, keys, liveness
from coatcheck.accounts import Accounts
from coatcheck.child import say
from coatcheck.connections import connect
from coatcheck.embedded_redis import EmbeddedRedis
from coatcheck.errors import SettingsError, StoreUnavailable
from coatcheck.keys_in_use import start_with
from coatcheck.preflight import check_port, ensure_key, hold_home, make_home
from coatcheck.processes import Program, StopOrder, process_table
from coatcheck.redis_check import check_redis
from coatcheck.settings import PREFIX, Settings
from coatcheck.store import JobStore
from coatcheck.supervisor import Supervisor
from coatcheck.tls_files import check_tls

#: The supervisor waits for no answer of Redis longer than this: deaths are to be noticed meanwhile.
REDIS_TIMEOUT_S = 0.5
REDIS_START_S = 30.0
#: A Redis that dies this often before it first answers will not start.
REDIS_START_DEATHS = 3
#: Not handed to children: the key is in Redis as a digest, and Granian copies its environment into every request.
PRIVATE_VARIABLES = frozenset({PREFIX + "API_KEY", PREFIX + "STANDBY", key_handing.NAME})


def run(settings: Settings, environ: Mapping[str, str]) -> None:
    """Run the service until SIGTERM or Ctrl-C; returns when every process has stopped.

    Raises:
        SettingsError: the home cannot be made or is in use, the port is taken or cannot be bound, or a certificate
            does not do.
        RedisUnfit: the Redis of COATCHECK_REDIS_URL would lose jobs.
        StoreUnavailable: Redis does not start or does not answer.
    """
    started = time.monotonic()
    key_handing.wipe_environment()
    make_home(settings.home)
    with hold_home(settings.home):
        check_port(settings.host, settings.port)
        for warning in check_tls(settings):
            say(f"warning: {warning}")
        _say_best_effort()
        client = connect(settings.effective_redis_url, timeout_s=REDIS_TIMEOUT_S)
        store = JobStore(client)
        supervisor = Supervisor(
            logs=settings.home / "logs",
            environment=_child_environment(environ),
            descriptors=_descriptors(settings),
            bury=lambda node: _bury(store, client, node),
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

    def pause() -> bool:
        if not settings.redis_url and supervisor.deaths >= REDIS_START_DEATHS:
            raise StoreUnavailable(f"the embedded Redis does not start; {supervisor.logs / 'redis.log'} says why")
        supervisor.turn(0.02)
        return supervisor.stop_requests > 0

    _wait_for_redis(settings, client, pause)
    if supervisor.stop_requests:
        return
    for warning in check_redis(client):
        say(f"warning: {warning}")
    starting = start_with(client, settings.keyring)
    if settings.encryption_keys and not settings.work_folder:
        folder = settings.effective_work_folder
        say(f"warning: running trainings have plain files in {folder}; COATCHECK_WORK_FOLDER names another folder")
    key, new = ensure_key(settings)
    Accounts(client).ensure(settings.account, key)
    supervisor.add(*process_table(settings))
    _wait_until_ready(supervisor, settings)
    with contextlib.suppress(redis.RedisError):
        liveness.forget(client, starting)
    supervisor.spares = True
    if not supervisor.stop_requests:
        say(*announcement(settings, key if new else "", time.monotonic() - started))
    while not supervisor.stop_requests:
        supervisor.turn(1.0)


def become(name: str, settings: Settings, environ: Mapping[str, str]) -> None:
    """Replace this process by one of the process table or `redis`; for Procfiles and containers. Does not return.

    Nobody gives its jobs back at once when it dies then: they wait for the end of their lease.

    Raises:
        SettingsError: there is no process of that name, the home cannot be made, or a certificate does not do.
        RedisUnfit: the Redis of COATCHECK_REDIS_URL would lose jobs.
        StoreUnavailable: Redis does not answer.
    """
    make_home(settings.home)
    for warning in check_tls(settings):
        say(f"warning: {warning}")
    if name == "redis":
        server = EmbeddedRedis(settings.home / "redis", memory_bytes=settings.redis_memory_bytes)
        server.prepare()
        _become(server.command(), _child_environment(environ))
    program = next((program for program in process_table(settings) if program.name == name), None)
    if program is None:
        raise SettingsError(f"there is no process {name!r}: redis, web, worker-predict, worker-train, worker-io")
    client = connect(settings.effective_redis_url, timeout_s=REDIS_TIMEOUT_S)
    _wait_for_redis(settings, client, lambda: time.sleep(0.1))
    for warning in check_redis(client):
        say(f"warning: {warning}")
    start_with(client, settings.keyring)
    if name == "web":
        key, new = ensure_key(settings)
        Accounts(client).ensure(settings.account, key)
        if new:
            say(f"the first admin key, shown once: {key}")
    node = f"{program.node}@{socket.gethostname()}.{secrets.token_hex(3)}"
    environment = _child_environment(environ)
    for setting, descriptor in _descriptors(settings).items():
        os.set_inheritable(descriptor, True)
        environment[setting] = f"fd:{descriptor}"
    _become([part.replace("{node}", node) for part in program.command], environment)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> None:
    os.execve(command[0], list(command), dict(environment))  # noqa: S606 - no shell is wanted  # nosec B606


def _descriptors(settings: Settings) -> dict[str, int]:
    """Settings that are handed over in memory; never closed: a process may be started at any time."""
    if not settings.encryption_keys:
        return {}
    return {key_handing.NAME: key_handing.held_open(settings.encryption_keys)}


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
            reads_settings=False,
            quiet=True,
            grace_s=10.0,
        )
    )


def _wait_for_redis(settings: Settings, client: redis.Redis, pause: Callable[[], bool | None]) -> None:
    """Return when Redis answers or `pause`, called between tries, says that it is not worth waiting (True)."""
    deadline = time.monotonic() + REDIS_START_S
    said_loading = False
    while True:
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
        if pause():
            return


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
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - asked, not bound  # nosec B104
    connection = _connection(host, settings)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _connection(host: str, settings: Settings) -> http.client.HTTPConnection:
    if not settings.tls_cert:
        return http.client.HTTPConnection(host, settings.port, timeout=1.0)
    # Our own process on this machine, whatever name its certificate has; nothing secret is sent.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, timeout=1.0, context=context)


def _bury(store: JobStore, client: redis.Redis, node: str) -> None:
    """Give a dead worker's jobs back and take its sign of life away, which would be believed for 15 s more."""
    store.expire_worker(node + "/")
    try:
        liveness.forget(client, node)
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(retry_after_s=1) from error


def _alive(client: redis.Redis, nodes: Sequence[str]) -> list[bool]:
    try:
        return [value is not None for value in client.mget([keys.alive(node) for node in nodes])]
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(retry_after_s=1) from error


def _child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Of every process: nothing that is private, and no news of its use (ONNX Runtime sends them unless it is told)."""
    kept = {name: value for name, value in environ.items() if name not in PRIVATE_VARIABLES}
    return {"ORT_DISABLE_TELEMETRY": "1", **kept, "PYTHONUNBUFFERED": "1"}


def announcement(settings: Settings, new_api_key: str, seconds: float) -> list[str]:
    """What is printed when the service is ready; can be pasted. A key is shown only if it is new."""
    base = settings.base_url
    if new_api_key:
        token = new_api_key
    elif settings.api_key:
        token = '"$COATCHECK_API_KEY"'  # noqa: S105 - a name for the shell  # nosec B105
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
