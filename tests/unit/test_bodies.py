"""Bodies gathered on the event loop: whole, or too large and read on, so that the sender hears why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from coatcheck.errors import TooLarge
from web.bodies import DISCARDED, gather

LIMIT = 1000
CHUNK = bytes(64 * 1024)


class Sent:
    """A client that sends so many bytes, once."""

    def __init__(self, size: int) -> None:
        self.left = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left > 0:
            self.left -= len(CHUNK)
            yield CHUNK[: min(len(CHUNK), self.left + len(CHUNK))]

    async def __call__(self) -> bytes:
        raise NotImplementedError


def test_a_body_as_large_as_it_may_be_is_whole() -> None:
    assert asyncio.run(gather(Sent(LIMIT), LIMIT)) == bytes(LIMIT)
    assert asyncio.run(gather(Sent(0), LIMIT)) == b""


def test_of_a_body_that_is_too_large_the_rest_is_read_before_it_is_refused() -> None:
    client = Sent(DISCARDED // 2)
    with pytest.raises(TooLarge, match="than the 1000 bytes"):
        asyncio.run(gather(client, LIMIT))
    assert client.left <= 0


def test_a_body_without_an_end_is_not_read_to_it() -> None:
    client = Sent(100 * DISCARDED)
    with pytest.raises(TooLarge, match="than the 1000 bytes"):
        asyncio.run(gather(client, LIMIT))
    assert client.left >= 98 * DISCARDED


def test_a_body_that_grows_slowly_beyond_what_it_may_have_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.bodies.DISCARD_S", 0.05)

    class Slow(Sent):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield bytes(LIMIT + 1)
            await asyncio.Event().wait()

    with pytest.raises(TooLarge, match="than the 1000 bytes"):
        asyncio.run(gather(Slow(0), LIMIT))
