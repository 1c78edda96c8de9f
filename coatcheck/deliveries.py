"""Deliveries in Redis: events told to receivers. Written with the event, leased for an attempt, kept as a log.

Turns records into script arguments and back; decides nothing. Knows neither HTTP nor what a body says.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import redis

from coatcheck import keys
from coatcheck.connections import DirectCalls, unavailable
from coatcheck.errors import Conflict, InvalidInput, NotFound
from coatcheck.scripts import Argument, Scripts
from coatcheck.sealed_fields import ANSWER, BODY, kept_text

if TYPE_CHECKING:
    from coatcheck.sealed_values import Sealer

T = TypeVar("T")

STATES = ("pending", "delivered", "failed")
#: Records read at a time, and in all for one page or one round of replays.
READ_AT_ONCE = 500
MOST_READ = 30_000


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the log: what an attempt met. `status` is 0 where there was no answer."""

    at_ms: int
    status: int
    ms: int
    #: Why it failed; empty for one that succeeded.
    error: str = ""
    #: First bytes of the answer, as far as they are text.
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """What is to be told to one receiver."""

    id: str
    account: str
    #: Endpoint id; empty for a job's own webhook.
    endpoint: str
    #: The `webhook-id`.
    event: str
    type: str
    #: The job it tells of; empty for a test.
    job: str
    url: str
    #: `host:port` of the URL.
    receiver: str
    #: The body, or the artifact prefix of a file with it.
    body: bytes = b""
    ref: str = ""
    #: The job's `webhook_status` follows this one.
    marks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A delivery that is ours to attempt, until its lease ends."""

    id: str
    token: str
    receiver: str
    account: str
    endpoint: str
    event: str
    type: str
    job: str
    url: str
    #: Attempts so far (since it was last replayed).
    attempts: int
    #: Not tried again.
    once: bool
    body: bytes
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an attempt went, and what follows."""

    word: str
    next_ms: int = 0
    attempt: Attempt | None = None
    #: Of the receiver as a whole: True it answers, False it is down, None nothing is known.
    well: bool | None = None
    pause_ms: int = 0
    code: str = ""
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Times of a receiver and an endpoint, milliseconds (they run faster in tests)."""

    lease_ms: int
    failing_ms: int
    most_per_receiver: int
    #: Failures in a row after which a receiver is left alone, doubling from `first` to `longest`.
    breaks_after: int = 10
    first_pause_ms: int = 5000
    longest_pause_ms: int = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery as it is kept. Times in milliseconds."""

    id: str
    account: str
    endpoint: str
    event: str
    type: str
    job: str
    url: str
    state: str
    #: Word for why it failed; empty otherwise.
    code: str
    created_ms: int
    ended_ms: int | None
    #: When the next attempt is due; None where none is, or it is being made.
    due_ms: int | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries are meant; empty or None: all."""

    state: str = ""
    endpoint: str = ""
    job: str = ""
    after_ms: int | None = None
    before_ms: int | None = None

    def fits(self, found: Delivery) -> bool:
        """True for a delivery that is meant, its time apart."""
        return self.state in ("", found.state) and self.endpoint in ("", found.endpoint) and self.job in ("", found.job)


class Deliveries:
    """Deliveries of all accounts in one Redis."""

    def __init__(self, client: redis.Redis, sealer: Sealer | None = None) -> None:
        self._client = client
        self._sealer = sealer
        self._scripts = Scripts(DirectCalls(client))

    # -- writing -----------------------------------------------------------------------------------------------

    def hand_over(self, event: str, token: str, deliveries: Sequence[NewDelivery]) -> bool:
        """An event leaves the outbox for its deliveries, in one step; False if another process has it by now."""
        arguments: list[Argument] = [event, token]
        for new in deliveries:
            fields = self._fields(new)
            arguments += (new.id, new.receiver, new.account, "1" if new.marks else "", len(fields), *fields)
        return bool(self._call("outbox_ack", *arguments))

    def add(self, new: NewDelivery, *, once: bool) -> bool:
        """One delivery of no outbox event; False if it is there already, or too many wait for its receiver."""
        return bool(self._call("hook_add", new.id, new.receiver, new.account, "1" if once else "", *self._fields(new)))

    def lease(self, worker: str, pace: Pace, *, most: int) -> list[Leased]:
        """Take due deliveries, each for one attempt."""
        rows = self._call(
            "hook_lease", most, pace.lease_ms, worker, secrets.token_hex(4), pace.most_per_receiver, pace.breaks_after
        )
        return [_leased(row) for row in rows]

    def body_of(self, leased: Leased) -> bytes:
        """The body of a delivery that has it with it. Raises ArtifactDamaged: it does not decrypt."""
        return leased.body if self._sealer is None else self._sealer.open(leased.body, BODY, leased.id)

    def report(self, leased: Leased, verdict: Verdict, pace: Pace) -> bool:
        """Note how an attempt went; True when its endpoint was switched off for it."""
        well = "" if verdict.well is None else "well" if verdict.well else "ill"
        attempt = verdict.attempt
        if attempt is not None:  # a receiver may send back what it was told
            answer = kept_text(self._sealer, attempt.answer, ANSWER, leased.id)
            attempt = msgspec.structs.replace(attempt, answer=answer)
        line = msgspec.json.encode(attempt) if attempt is not None else b""
        answer = self._call(
            "hook_done",
            *(leased.id, leased.token, verdict.word, verdict.next_ms, line, well, verdict.pause_ms, verdict.code),
            *(pace.failing_ms, "gone" if verdict.gone else ""),
            *(pace.breaks_after, pace.first_pause_ms, pace.longest_pause_ms),
        )
        return bool(answer == 2)

    def replay(self, account: str, delivery_id: str, *, receiver: str, url: str) -> None:
        """Start an ended delivery anew.

        Raises:
            NotFound: there is none. Conflict: it has not ended.
        """
        word = self._call("hook_replay", delivery_id, account, receiver, url)
        if word == b"gone":
            raise _missing(delivery_id)
        if word == b"open":
            raise Conflict("The delivery has not ended; its next attempt comes by itself.")

    def forget(self, account: str, ids: Sequence[str]) -> int:
        """Remove deliveries of an account, ended or not; returns how many there were."""
        return int(self._call("hook_forget", account, *ids)) if ids else 0

    # -- reading -----------------------------------------------------------------------------------------------

    def get(self, account: str, delivery_id: str) -> Delivery:
        """One delivery. Raises NotFound, for a foreign one too."""
        (found,) = self._read([delivery_id])
        if found is None or found.account != account:
            raise _missing(delivery_id)
        return found

    def body(self, delivery_id: str) -> tuple[bytes, str]:
        """What it tells: the body, or the prefix of the file with it."""
        body, ref = cast(
            list[bytes | None], self._guard(lambda: self._client.hmget(keys.delivery(delivery_id), "body", "ref"))
        )
        return body or b"", (ref or b"").decode()

    def page(self, account: str, wanted: DeliveryFilter, *, limit: int, cursor: str = "") -> tuple[list[Delivery], str]:
        """Deliveries that are meant, newest first, and the cursor of what follows (empty: nothing does).

        A page looks at no more than 30,000: it may then be short and go on.

        Raises:
            InvalidInput: the cursor is none of ours.
        """
        found: list[Delivery] = []
        mark, read = cursor, 0
        while read < MOST_READ:
            ids, mark_after = self._ids(account, wanted, mark)
            for delivery in self._read(ids):
                if delivery is not None and delivery.account == account and wanted.fits(delivery):
                    found.append(delivery)
                    if len(found) > limit:
                        last = found[limit - 1]
                        return found[:limit], f"{last.created_ms}-{last.id}"
            mark, read = mark_after, read + READ_AT_ONCE
            if not mark:
                break
        return found, mark

    def _ids(self, account: str, wanted: DeliveryFilter, cursor: str) -> tuple[list[str], str]:
        high: str | int = "+inf" if wanted.before_ms is None else f"({wanted.before_ms}"
        mark_ms, mark_id = _parse_cursor(cursor)
        if cursor:
            high = mark_ms
        low: str | int = "-inf" if wanted.after_ms is None else wanted.after_ms

        def read() -> list[tuple[bytes, float]]:
            name, at_once = keys.deliveries(account), READ_AT_ONCE
            while True:
                rows = cast(
                    list[tuple[bytes, float]],
                    self._client.zrevrangebyscore(name, high, low, 0, at_once, withscores=True),
                )
                fresh = [row for row in rows if not cursor or (int(row[1]), row[0].decode()) < (mark_ms, mark_id)]
                # Many of one millisecond: read on until something lies behind the cursor.
                if fresh or len(rows) < at_once:
                    return fresh if len(rows) < at_once else [*fresh, (b"", 0.0)]
                at_once *= 2

        rows = self._guard(read)
        more = bool(rows) and rows[-1][0] == b""
        rows = rows[:-1] if more else rows
        last = f"{int(rows[-1][1])}-{rows[-1][0].decode()}" if more and rows else ""
        return [row[0].decode() for row in rows], last

    def _read(self, ids: Sequence[str]) -> list[Delivery | None]:
        def read() -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for delivery_id in ids:
                pipeline.hmget(keys.delivery(delivery_id), _SHOWN)
            return pipeline.execute()

        records = self._guard(read)
        found = [_delivery(delivery_id, record, self._sealer) for delivery_id, record in zip(ids, records, strict=True)]
        return self._with_due([(delivery, record[-1]) for delivery, record in zip(found, records, strict=True)])

    def _with_due(self, found: list[tuple[Delivery | None, bytes | None]]) -> list[Delivery | None]:
        pipeline = self._client.pipeline(transaction=False)
        for delivery, receiver in found:
            if delivery is not None and delivery.state == "pending":
                pipeline.zscore(f"{keys.PREFIX}receiver:{(receiver or b'').decode()}", delivery.id)
        scores = iter(self._guard(pipeline.execute) if len(pipeline) else [])
        with_due: list[Delivery | None] = []
        for delivery, _ in found:
            if delivery is not None and delivery.state == "pending":
                score = next(scores)
                delivery = replace(delivery, due_ms=None if score is None else int(score))  # noqa: PLW2901
            with_due.append(delivery)
        return with_due

    # -- calling -----------------------------------------------------------------------------------------------

    def _fields(self, new: NewDelivery) -> list[Argument]:
        body = new.body if self._sealer is None else self._sealer.seal(new.body, BODY, new.id)
        fields: list[Argument] = ["event", new.event, "type", new.type, "url", new.url]
        for name, value in (("endpoint", new.endpoint), ("job", new.job), ("ref", new.ref), ("body", body)):
            if value:
                fields += (name, value)
        return fields

    def _call(self, name: str, *arguments: Argument) -> Any:
        return self._guard(lambda: self._scripts.call(name, *arguments))

    @staticmethod
    def _guard(action: Callable[[], T]) -> T:
        try:
            return action()
        except redis.exceptions.RedisError as error:
            known = unavailable(error)
            if known is None:
                raise
            raise known from error


_SHOWN = ("account", "endpoint", "event", "type", "job", "url", "state", "code", "t", "t_e", "log", "receiver")


def _attempt(line: str, delivery_id: str, sealer: Sealer | None) -> Attempt:
    attempt = msgspec.json.decode(line, type=Attempt)
    if sealer is None:
        return attempt
    return msgspec.structs.replace(attempt, answer=sealer.open(attempt.answer.encode(), ANSWER, delivery_id).decode())


def _leased(row: Any) -> Leased:
    delivery_id, token, receiver, account, endpoint, event, kind, job, url, attempts, once = (
        value.decode() for value in row[:11]
    )
    return Leased(
        id=delivery_id,
        token=token,
        receiver=receiver,
        account=account,
        endpoint=endpoint,
        event=event,
        type=kind,
        job=job,
        url=url,
        attempts=int(attempts or 0),
        once=once == "1",
        body=row[11],
        ref=row[12].decode(),
    )


def _delivery(delivery_id: str, record: Sequence[bytes | None], sealer: Sealer | None) -> Delivery | None:
    if record[0] is None:
        return None
    account, endpoint, event, kind, job, url, state, code, created, ended, log = (
        (value or b"").decode() for value in record[:11]
    )
    return Delivery(
        id=delivery_id,
        account=account,
        endpoint=endpoint,
        event=event,
        type=kind,
        job=job,
        url=url,
        state=state,
        code=code,
        created_ms=int(created),
        ended_ms=int(ended) if ended else None,
        due_ms=None,
        attempts=tuple(_attempt(line, delivery_id, sealer) for line in log.split("\n") if line),
    )


def _parse_cursor(cursor: str) -> tuple[int, str]:
    at, _, delivery_id = cursor.partition("-")
    if not cursor:
        return 0, ""
    if not at.isdecimal() or len(at) > 15 or not delivery_id:
        raise InvalidInput(f"cursor is {cursor[:80]!r}; expected one this service gave", field="cursor")
    return int(at), delivery_id


def _missing(delivery_id: str) -> NotFound:
    return NotFound(f"There is no delivery {delivery_id[:80]!r}.")
