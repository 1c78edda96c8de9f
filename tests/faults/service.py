"""A whole service for fault tests: started by its own command, its processes found from its supervisor downwards.

Only descendants of the supervisor started here are ever signalled, each by its number. Knows no test.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coatcheck import liveness
from coatcheck.core import Core, open_core
from coatcheck.errors import StoreUnavailable
from coatcheck.process_death import die_with_parent
from coatcheck.settings import Settings

ROOT = Path(__file__).parents[2]
KEY = "fault-tests-key-0123456789"
READY_S = 90.0


def until(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Seconds until the condition was true; an assertion fails when it takes longer than `timeout_s`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


def wall_ms() -> float:
    """Now, as the Redis server on this machine tells it."""
    return time.time() * 1000


@dataclass
class Service:
    """A running `python -m coatcheck run` and a core of its own over the same Redis and storage."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    core: Core = field(repr=False)

    @property
    def printed(self) -> str:
        return (self.home / "console.log").read_text(errors="replace")

    # -- processes -------------------------------------------------------------------------------------------

    def tree(self) -> dict[int, tuple[int, str]]:
        """Living descendants of the supervisor: pid -> (parent, command line)."""
        found: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if state != "Z":
                    found[int(entry.name)] = (int(parent), line)
        ours, size = {self.process.pid}, 0
        while len(ours) != size:
            size = len(ours)
            ours |= {pid for pid, (parent, _) in found.items() if parent in ours}
        return {pid: found[pid] for pid in ours - {self.process.pid} if pid in found}

    def find(self, words: str) -> list[int]:
        """Processes with these words in their command line."""
        return sorted(pid for pid, (_, line) in self.tree().items() if words in line)

    def children_of(self, parent: int) -> list[int]:
        return sorted(pid for pid, (its_parent, _) in self.tree().items() if its_parent == parent)

    def send(self, pid: int, number: signal.Signals) -> float:
        """Signal one of the service's processes; returns when, in wall milliseconds."""
        assert pid in self.tree(), f"{pid} is no process of this service"
        at_ms = wall_ms()
        os.kill(pid, number)
        return at_ms

    def workers(self, kind: str) -> dict[int, str]:
        """Workers of a kind that gave a sign of life and live: pid -> node."""
        try:
            living = liveness.live(self.core.store.client)
        except Exception:  # noqa: BLE001 - Redis may be the one that was killed
            return {}
        tree = self.tree()
        return {
            process.figures["pid"]: process.name
            for process in living
            if process.kind == kind and process.figures.get("pid") in tree
        }

    def wait_for_workers(self, kind: str, count: int, timeout_s: float = 60) -> None:
        """Until so many workers of the kind live and are warm."""
        until(lambda: len(self.workers(kind)) >= count, timeout_s, f"{count} live {kind} workers")

    def wait_for_end(self, pid: int, timeout_s: float = 10) -> None:
        """Until a process is gone."""
        until(lambda: pid not in self.tree(), timeout_s, f"the end of {pid}")

    def kill_all(self) -> float:
        """SIGKILL to the supervisor; returns when. All it started must end with it."""
        started = self.tree()
        at_ms = wall_ms()
        self.process.kill()
        self.process.wait()
        until(lambda: not [pid for pid in started if _runs(pid)], 10, "what the supervisor started ends with it")
        return at_ms

    # -- HTTP ------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = 10, **headers: str
    ) -> tuple[int, Any]:
        """One request on a connection of its own: status and decoded answer; status 0 when there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            return request(connection, method, path, body, **headers)
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    """One JSON request on a kept connection."""
    content = None if body is None else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method,
        path,
        content,
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **given},
    )
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text


@contextmanager
def running_service(home: Path, **environment: str) -> Iterator[Service]:
    """Start it, wait until it is ready with its spare, yield it, stop it; settings by their variables' ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    home.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
    given = {f"COATCHECK_{name.upper()}": value for name, value in environment.items()}
    settings = Settings.from_env({"COATCHECK_HOME": str(home), "COATCHECK_PORT": str(port), **given})
    with (home / "console.log").open("ab") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "coatcheck", "run"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl; a test run that is killed leaves nothing running
            env={
                **inherited,
                **given,
                "COATCHECK_HOME": str(home),
                "COATCHECK_PORT": str(port),
                "COATCHECK_API_KEY": KEY,
            },
        )
    service = Service(home=home, port=port, process=process, core=open_core(settings))
    try:
        until(lambda: "is ready" in service.printed or process.poll() is not None, READY_S, "the service's start")
        assert process.poll() is None, service.printed[-3000:]
        service.wait_for_workers("predict", settings.predict_workers + 1)
        yield service
    finally:
        _end(service)


def _end(service: Service) -> None:
    service.core.store.client.close()
    if service.process.poll() is not None:
        return
    for pid in service.tree():  # a stopped process does not hear that it shall end
        os.kill(pid, signal.SIGCONT)
    service.process.terminate()
    try:
        service.process.wait(30)
    except subprocess.TimeoutExpired:
        for pid in service.tree():
            os.kill(pid, signal.SIGKILL)
        service.process.kill()
        service.process.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def reads(service: Service, job_id: str) -> Any:
    """The job's record, or None while Redis is away."""
    try:
        return service.core.store.get(job_id)
    except StoreUnavailable:
        return None
