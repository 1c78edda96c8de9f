"""Starting and stopping what is measured: every process in a group of its own, logged to a file.

Knows nothing about what the processes are.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A process that is to be measured did not become ready."""


class Child:
    """A running command, with the end of its log for when it fails."""

    def __init__(
        self, name: str, command: list[str], *, folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        """Start `command` in `folder`; `environment` is added to the present one."""
        self.name = name
        self.log = folder / f"{name}.log"
        extra = [f"{key}={value}" for key, value in (environment or {}).items()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["env", *extra, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl, no threads started yet
            )

    def __enter__(self) -> Self:
        """The child itself, stopped at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def wait_until(self, ready: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Seconds until `ready()` was true.

        Raises:
            StartError: the process ended, or the limit passed; the message has the end of its log.
        """
        started = time.monotonic()
        while not ready():
            if self.process.poll() is not None or time.monotonic() - started > limit_s:
                raise StartError(f"{self.name} did not become ready:\n{self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, limit_s: float = 20.0) -> None:
        """SIGTERM; what is left of the group after `limit_s` gets SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(limit_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def descendants(self) -> dict[int, str]:
        """Pid and command line of every process below it, itself included."""
        return {pid: _command_line(pid) for pid in _below(self.process.pid)}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far by it and everything below it that lives, by part of the service."""
        used: dict[str, float] = {}
        for pid in _below(self.process.pid):
            part = _part(_command_line(pid)) or self.name
            used[part] = used.get(part, 0.0) + _cpu_s(pid)
        return used


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int, path: str) -> bool:
    """True when GET `path` on `port` answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def send_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still lives."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _below(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in children.read_text().split())
            except OSError:
                continue
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _part(line: str) -> str:
    """Which part of a service a command line belongs to; empty if it does not say."""
    if "valkey-server" in line:
        return "redis"
    if "granian" in line:
        return "web"
    if "workers.training" in line:
        return "train"
    return next((kind for kind in ("predict", "train", "io") if f" {kind}@" in line), "")


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
