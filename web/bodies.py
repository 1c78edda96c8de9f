"""Request bodies from the event loop: small ones gathered, uploads piped to the thread that stores them.

Bounds what a client can cost: size, silence and slowness. Knows no routes and no formats.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Protocol

from coatcheck.errors import CoatcheckError, TooLarge

#: Seconds without a byte after which a body is given up.
IDLE_S = 15.0
#: A body must keep this pace, bytes per second, after the first `GRACE_S` seconds.
SLOWEST = 4096
GRACE_S = 20.0
#: Announced bodies up to this are awaited in one piece, which costs less than chunk by chunk, bytes.
AT_ONCE = 64 * 1024
#: Chunks that may wait between the loop and the reading thread.
AHEAD = 16
#: What is read of a refused upload for as long, that its sender may hear why: bytes and seconds.
DISCARDED = 8 * 1024 * 1024
DISCARD_S = 2.0


class SlowBody(Exception):
    """The body came too slowly; the answer is 408."""


class Source(Protocol):
    """The part of RSGI's protocol object that gives the body."""

    def __call__(self) -> Awaitable[bytes]:
        """The whole body, awaitable."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in chunks."""


class _Pace:
    """How long the next chunk may take."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._received = 0

    def patience(self) -> float:
        """Seconds left for the next chunk; at most `IDLE_S`, 0 or less when the pace was not kept."""
        return min(IDLE_S, GRACE_S + self._received / SLOWEST - (self._clock() - self._start))

    def add(self, size: int) -> None:
        self._received += size

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What passes meanwhile is not the client's time."""
        began = self._clock()
        yield
        self._start += self._clock() - began


async def chunks(source: Source, limit: int) -> AsyncIterator[bytes]:
    """The body in chunks, paced and bounded.

    Raises:
        TooLarge: more than `limit` bytes. SlowBody: too slow.
    """
    pace, received = _Pace(), 0
    iterator = source.__aiter__()
    while True:
        try:
            async with asyncio.timeout(pace.patience()):
                chunk = await iterator.__anext__()
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SlowBody from None
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"The body is larger than the {limit} bytes this route takes")
        pace.add(len(chunk))
        with pace.stopped():  # until the reader takes more
            yield bytes(chunk)


async def read_whole(source: Source, length: int) -> bytes:
    """A body whose announced length was found to be allowed.

    Raises:
        SlowBody: too slow.
    """
    if length > AT_ONCE:
        return await gather(source, length)
    try:
        async with asyncio.timeout(GRACE_S + length / SLOWEST):
            return await source()
    except TimeoutError:
        raise SlowBody from None


async def gather(source: Source, limit: int) -> bytes:
    """The whole body. Raises as `chunks` does."""
    return b"".join([chunk async for chunk in chunks(source, limit)])


async def throw_away(source: Source) -> bool:
    """Read a refused body, within bounds, and keep nothing; whether it was received to its end.

    A connection that is closed upon a body under way is reset, and the answer is lost with it (RFC 9112, 9.6).
    """
    with contextlib.suppress(CoatcheckError, SlowBody, TimeoutError, ConnectionError, RuntimeError):
        async with asyncio.timeout(DISCARD_S):
            async for _chunk in chunks(source, DISCARDED):
                pass
        return True
    return False


class Pipe(io.RawIOBase):
    """A body that the loop writes and one thread reads, at most `AHEAD` chunks apart."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._room = asyncio.Semaphore(AHEAD)
        self._chunks: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._left = b""
        self._ended = False
        # Bytes that may still be thrown away; None while they are kept.
        self._unwanted: int | None = None
        #: What ended the body early; None while all is well.
        self.failure: BaseException | None = None
        #: The body was received to its end.
        self.whole = False

    # -- on the loop ---------------------------------------------------------------------------------

    async def fill(self, source: Source, limit: int) -> None:
        """Move the body into the pipe; failures are raised in the reading thread."""
        try:
            async for chunk in chunks(source, limit):
                await self._room.acquire()
                if self._unwanted is None:
                    self._chunks.put(chunk)
                else:
                    self._unwanted -= len(chunk)
                    self._room.release()
                    if self._unwanted < 0:
                        return
            self._chunks.put(b"")
            self.whole = True
        except (CoatcheckError, SlowBody) as error:
            self.failure = error
            self._chunks.put(error)
        except Exception as error:  # noqa: BLE001 - the client is gone; the reader must not wait for ever
            self.failure = error
            self._chunks.put(EOFError("the client hung up inside the body"))
        except asyncio.CancelledError:
            self._chunks.put(EOFError("the request was given up"))
            raise

    async def discard(self, filling: asyncio.Task[None]) -> bool:
        """As `throw_away`, of what is left of a body that nobody reads any more."""
        self._unwanted = DISCARDED
        self._room.release()
        await asyncio.wait([filling], timeout=DISCARD_S)
        return self.whole

    # -- in the thread -------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Blocks until there is something; 0 at the end."""
        if not self._left and not self._ended:
            item = self._chunks.get()
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            self._loop.call_soon_threadsafe(self._room.release)
            self._left = item
            self._ended = not item
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
