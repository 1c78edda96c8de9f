"""Whose turn it is: from which queue the predict loop takes next. Pure: knows no Redis and runs nothing.

Predictions go first. The chunks of batches (`bulk:<version>`) get what is left, and while both wait one slice in
four: 20 ms, and 5 as long as predictions come, for a slice once begun is not left, and each of them may meet one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

BULK = "bulk:"
#: A version's turn ends after so many micro-batches or seconds when another version has work.
TURN_BATCHES = 8
TURN_S = 0.2
#: Every so many claims from a version's queue the lane of later attempts goes first.
SOLO_EVERY = 2
#: While predictions wait, one micro-batch of so many is one of chunks; how long it should take: each costs a claim.
BULK_EVERY = 4
SLICE_S = 0.02
#: The same while predictions come, that is so many seconds after the last one.
SHORT_SLICE_S = 0.005
COMING_S = 2.0
#: A queue forgotten is taken for one that was never served.
REMEMBERED_QUEUES = 1000


def whole_slice() -> float:
    """Seconds of a slice of chunks where nobody else is about."""
    return SLICE_S


@dataclass(slots=True)
class _Queue:
    """What a queue had: how many claims, when the last micro-batch (monotonic seconds), and how long a row took."""

    claims: int = 0
    served: float = 0.0
    seconds_a_row: float = 0.0


class Turns:
    """Remembers what each queue had, and decides."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._current = ""
        self._started = 0.0
        self._batches = 0
        #: Micro-batches of predictions since the last of chunks.
        self._since_bulk = 0
        #: When predictions were run last, monotonic seconds.
        self._predicted = -COMING_S

    def solo_first(self, queue: str) -> bool:
        """Count a claim from the queue; True when its lane of later attempts is to go first."""
        # Counted for each queue: two queues that take turns would else meet the same lane every time.
        known = self._known(queue)
        known.claims += 1
        return known.claims % SOLO_EVERY == 1

    def most_rows(self, queue: str, most: int) -> int:
        """Rows the next micro-batch may have: of chunks what fits a slice, or one chunk while that is not known."""
        if not queue.startswith(BULK):
            return most
        seconds_a_row = self._known(queue).seconds_a_row
        return max(1, min(most, int(SLICE_S / seconds_a_row))) if seconds_a_row else 1

    def slice_s(self) -> float:
        """Seconds that a slice of a chunk should take now."""
        coming = time.monotonic() - self._predicted < COMING_S
        return min(SHORT_SLICE_S, SLICE_S) if coming else SLICE_S

    def bulk_turn(self, queue: str) -> bool:
        """True when chunks may go before a prediction that waits."""
        return queue.startswith(BULK) and self._since_bulk >= BULK_EVERY - 1

    def ran(self, queue: str, rows: int, seconds: float) -> None:
        """A micro-batch of the queue was run."""
        now = time.monotonic()
        known = self._known(queue)
        known.served = now
        known.seconds_a_row = seconds / max(1, rows)
        if queue != self._current:
            self._current, self._started, self._batches = queue, now - seconds, 0
        self._batches += 1
        if queue.startswith(BULK):
            self._since_bulk = 0
        else:
            self._since_bulk += 1
            self._predicted = now

    def over(self, others: Sequence[str]) -> bool:
        """True when the queue that just ran has had its turn, for these others have work too."""
        if not others:
            return False
        if self._current.startswith(BULK):
            return True
        if self._since_bulk >= BULK_EVERY - 1 and any(other.startswith(BULK) for other in others):
            return True
        long_enough = self._batches >= TURN_BATCHES or time.monotonic() - self._started >= TURN_S
        return long_enough and not all(other.startswith(BULK) for other in others)

    def next(self, others: Sequence[str]) -> str | None:
        """The queue that goes on, of those that have work; None when none has."""
        self._current = ""
        predictions = [other for other in others if not other.startswith(BULK)]
        bulk = [other for other in others if other.startswith(BULK)]
        if bulk and (not predictions or self._since_bulk >= BULK_EVERY - 1):
            return min(bulk, key=self._last_served)
        return min(predictions, key=self._last_served, default=None)

    def _last_served(self, queue: str) -> float:
        known = self._queues.get(queue)
        return known.served if known is not None else 0.0

    def _known(self, queue: str) -> _Queue:
        known = self._queues[queue] = self._queues.pop(queue) if queue in self._queues else _Queue()
        if len(self._queues) > REMEMBERED_QUEUES:
            del self._queues[next(iter(self._queues))]  # the one longest unused
        return known
