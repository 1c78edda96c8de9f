"""A proxy before Redis that cuts connections: before a command, within it, before its answer, or within that.

Each connection is cut at a random byte of what passes through it. Knows nothing of the protocol.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CuttingProxy:
    """Listens on a unix socket; `mean_bytes` pass through a connection, on average, before it is cut."""

    def __init__(self, listen: Path, target: str, mean_bytes: int, seed: int) -> None:
        self.url = f"unix://{listen}?db=0"
        self.cuts = 0
        self._target = target
        self._mean_bytes = mean_bytes
        self._random = random.Random(seed)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(listen))
        self._server.listen(64)
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._spawn(self._accept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            for end in self._open:
                _shut(end)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            with self._lock:
                self._open |= {near, far}
            left = [int(self._random.expovariate(1 / self._mean_bytes)) + 1]
            self._spawn(self._copy, near, far, left)
            self._spawn(self._copy, far, near, left)

    def _copy(self, source: socket.socket, target: socket.socket, left: list[int]) -> None:
        try:
            while data := source.recv(65536):
                part = data[: left[0]]
                left[0] -= len(part)
                target.sendall(part)
                if left[0] <= 0:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, target):
            _shut(end)

    def _spawn(self, run, *arguments) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def cutting_proxy(folder: Path, url: str, *, mean_bytes: int, seed: int = 1) -> Iterator[CuttingProxy]:
    """A proxy before the server of a `unix://` URL."""
    target = url.removeprefix("unix://").partition("?")[0]
    proxy = CuttingProxy(folder / "cut.sock", target, mean_bytes, seed)
    try:
        yield proxy
    finally:
        proxy.close()
