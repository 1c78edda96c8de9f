"""Marks of unloaded models as one process remembers them: never an answer from before it changed one itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import redis as redis_py

from coatcheck.unloaded import Unloaded


class SlowRedis:
    """Marks in a set; `during` is called while they are on their way to who asked."""

    def __init__(self) -> None:
        self.marks: set[bytes] = set()
        self.during: Callable[[], None] = lambda: None

    def smembers(self, _: str) -> set[bytes]:
        read = set(self.marks)
        self.during()
        return read

    def sadd(self, _: str, model: str) -> None:
        self.marks.add(model.encode())

    def srem(self, _: str, model: str) -> None:
        self.marks.discard(model.encode())


def test_an_answer_that_was_on_its_way_when_a_mark_changed_is_not_remembered() -> None:
    client = SlowRedis()
    unloaded = Unloaded(cast(redis_py.Redis, client))
    for change, after in ((unloaded.add, True), (unloaded.remove, False)):
        unloaded.forget()
        client.during = partial(change, "me/one")  # another thread unloads or loads it
        unloaded.has("me/one")
        client.during = lambda: None
        assert unloaded.has("me/one") is after


def test_marks_are_remembered_for_a_moment() -> None:
    client = SlowRedis()
    unloaded = Unloaded(cast(redis_py.Redis, client))
    assert not unloaded.has("me/one")
    client.marks.add(b"me/one")  # by another process
    assert not unloaded.has("me/one")
    unloaded.forget()
    assert unloaded.has("me/one")
