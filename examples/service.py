"""Starts the service as `make run` does and talks to it over HTTP. For the demo; knows no models."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from coatcheck.preflight import check_port
from coatcheck.process_death import die_with_parent
from coatcheck.settings import Settings

START_S = 60.0


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


@contextlib.contextmanager
def running_service(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The service, ready; stopped in good order at the end.

    Raises:
        SettingsError: the port is taken. DemoFailed: it did not start.
    """
    check_port(settings.host, settings.port)  # else another service's answers would be taken for this one's
    process = subprocess.Popen(
        [sys.executable, "-m", "coatcheck", "run"],
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl; a demo that is killed leaves nothing running
    )
    try:
        _wait_ready(settings, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_ready(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed("the service did not start; its words are above")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{settings.base_url}/readyz", timeout=2).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise DemoFailed(f"the service was not ready after {START_S:g} s")


def client(settings: Settings) -> httpx.Client:
    """A client with the key that the service keeps in its home."""
    key = settings.api_key or (settings.home / "api-key").read_text().strip()
    return httpx.Client(
        base_url=settings.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=90, trust_env=False
    )


def checked(response: httpx.Response) -> Any:
    """The answer's JSON, or the problem it tells as DemoFailed."""
    if response.is_error:
        raise DemoFailed(
            f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}"
        )
    return response.json()


class Connections:
    """One plain connection a thread, for thousands of requests: httpx spends more on each than the service does."""

    def __init__(self, like: httpx.Client) -> None:
        self._address = (like.base_url.host, like.base_url.port or 80)
        self._headers = {"Authorization": like.headers["Authorization"], "Content-Type": "application/json"}
        self._local = threading.local()

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One request; its JSON answer, or DemoFailed with the problem it tells."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(*self._address, timeout=90)
        connection: http.client.HTTPConnection = self._local.connection
        connection.request(method, path, body, self._headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= httpx.codes.BAD_REQUEST:
            raise DemoFailed(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
        return json.loads(content)
