"""What goes on while a large file is written: its second digest, and its bytes' way to the disk.

Knows no storage.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

#: A file that has so many bytes is large.
LARGE_BYTES = 16 * 1024**2
#: So many bytes at a time are sent to the disk.
WRITEBACK_BYTES = 2 * 1024**2


class BesideHashing:
    """A digest of one file in a thread, which begins only when the file turns out to be large."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._hashed: Future[Any] | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what runs."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def take(self, update: Callable[[bytes], Any], chunk: bytes, size: int) -> None:
        """Hash a chunk; `size` is what the file has with it."""
        if size < LARGE_BYTES:
            update(chunk)
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "digest")
        self.finish()
        self._hashed = self._executor.submit(update, chunk)

    def finish(self) -> None:
        """Wait for the last one."""
        if self._hashed is not None:
            self._hashed.result()


class Writeback:
    """Lets the disk begin with the bytes of a file that grows, so that the fsync at its end waits for few.

    Nothing is waited for and nothing is promised: what the disk refuses, that fsync says. An fdatasync now and then
    would do the same, but each also waits for the file system's journal, and Redis' own with it.

    Args:
        target: the open file; None where it is not on a local disk.
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        self._next = WRITEBACK_BYTES
        self._sent = 0

    def wrote(self, size: int) -> None:
        """The file was given so many bytes so far."""
        if self._target is None or size < self._next or not hasattr(os, "posix_fadvise"):
            return
        self._next = size + WRITEBACK_BYTES
        self._target.flush()
        number = self._target.fileno()
        end = os.fstat(number).st_size
        # Pages that are not needed and not written yet are begun to be written; they stay in memory (Linux).
        with contextlib.suppress(OSError):  # a file system that knows no such advice
            os.posix_fadvise(number, self._sent, end - self._sent, os.POSIX_FADV_DONTNEED)
        self._sent = end
