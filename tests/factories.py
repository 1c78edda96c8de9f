"""Jobs in every state a test may want, each made by the store's own transitions; and a server clock that can be aged.

The chain: `new_job` (a record) -> `submitted` -> `claimed` -> `made(store, state)`. Nothing here writes a status
by hand. Knows no HTTP, no models and no workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis as redis_py

from coatcheck import keys
from coatcheck.audit import audit
from coatcheck.claims import Claimed, ClaimReply, ClaimRequest, Completion, Idempotency, NewJob
from coatcheck.jobs import Kind, Status, child_id, new_id
from coatcheck.store import JobStore

ACCOUNT = "ann"
VERSION = "a" * 64
QUEUE = f"predict:{VERSION}"
BULK = f"bulk:{VERSION}"
WORKER = "predict@host-1/1"
LEASE_MS = 10_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

#: Every state a job's record can be in, by what it takes to get there.
STATES = (
    "absent",
    "queued",
    "queued again",
    "delayed",
    "running",
    "running last",
    "canceling",
    "succeeded",
    "failed",
    "canceled",
    "expired",
    # A batch that waits for a chunk, or whose chunks have ended; chunks of a batch that was canceled.
    "parked",
    "planned",
    "orphan queued",
    "orphan running",
)


def new_job(**changes: Any) -> NewJob:
    """A small prediction of `ACCOUNT`, not submitted."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "kind": Kind.PREDICTION,
        "account": ACCOUNT,
        "queue": QUEUE,
        "model": "ann/digits",
        "version": VERSION,
        "input": b'{"x": 1}',
        "limit_ms": 60_000,
        "queue_ttl_ms": DAY_MS,
        "keep_ms": DAY_MS,
        "max_attempts": 3,
    }
    return NewJob(**fields | changes)


def new_batch(**changes: Any) -> NewJob:
    """A batch of `ACCOUNT`, not submitted."""
    return new_job(**{"kind": Kind.BATCH, "queue": "io"} | changes)


def new_child(parent: str, number: int = 0, **changes: Any) -> NewJob:
    """The n-th chunk of a batch, not submitted."""
    return new_job(**{"id": child_id(parent, number), "parent": parent, "queue": BULK} | changes)


def planning(store: JobStore, children: int = 0, **changes: Any) -> Claimed:
    """A batch that a worker has claimed and given so many chunks; nothing else may wait in its queue."""
    job_id = store.submit(new_batch(**changes)).id
    (claim,) = claim_next(store, kind="io").jobs
    assert claim.id == job_id, "another job waited before this one"
    store.submit_children(claim.id, claim.token, [new_child(claim.id, number) for number in range(children)])
    return claim


def parked(store: JobStore, children: int = 1, **changes: Any) -> Claimed:
    """A batch that waits for its chunks, and the claim it had."""
    claim = planning(store, children, **changes)
    store.park(claim.id, claim.token)
    return claim


def idempotency(key: str, body: str = "body") -> Idempotency:
    """A key as web makes it, with a body's fingerprint."""
    return Idempotency(digest=f"digest-{key}", fingerprint=f"fingerprint-{body}")


def claim_request(**changes: Any) -> ClaimRequest:
    """One job of any predict queue for `WORKER`."""
    fields: dict[str, Any] = {"kind": "predict", "worker": WORKER, "lease_ms": LEASE_MS}
    return ClaimRequest(**fields | changes)


def submitted(store: JobStore, **changes: Any) -> str:
    """Id of a job that waits in the ready lane."""
    return store.submit(new_job(**changes)).id


def claimed(store: JobStore, **changes: Any) -> Claimed:
    """A job that `WORKER` has just claimed; nothing else may wait in its queue."""
    job_id = submitted(store, **changes)
    (claim,) = claim_next(store).jobs
    assert claim.id == job_id, "another job waited before this one"
    return claim


def claim_next(store: JobStore, **changes: Any) -> ClaimReply:
    """What the next claim of `WORKER` gets."""
    return store.claim(claim_request(**changes))


def completion(claim: Claimed, status: Status = Status.SUCCEEDED, **changes: Any) -> Completion:
    """A report on a claim: an output, or a code and a sentence."""
    fields: dict[str, Any] = {"id": claim.id, "token": claim.token, "status": status}
    if status is Status.SUCCEEDED:
        fields |= {"output": b'{"label": "7"}', "provider": "CPUExecutionProvider"}
    else:
        fields |= {"code": "bad_input", "error": "The input does not fit."}
    return Completion(**fields | changes)


@dataclass
class Made:
    """A job brought into one of `STATES`: its id and every token it was ever claimed with."""

    id: str
    state: str
    queue: str = QUEUE
    tokens: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        """The newest token, or one that never was."""
        return self.tokens[-1] if self.tokens else "0:never"


def made(store: JobStore, state: str, **changes: Any) -> Made:
    """A job in `state`, alone in its queue."""
    if state == "absent":
        return Made(new_id(), state)
    if state in ("parked", "planned") or state.startswith("orphan"):
        return _made_with_batch(store, state)
    job = Made(submitted(store, **changes), state, changes.get("queue", QUEUE))
    if state in ("queued", "canceled", "expired"):
        if state == "canceled":
            store.cancel(job.id)
        if state == "expired":
            age(store.client, DAY_MS + 1000)
            store.sweep()
        return job
    job.tokens.append(_claim(store, job))
    if state == "queued again":
        store.expire_worker(WORKER)
    elif state == "delayed":
        store.retry(job.id, job.token, code="passing", error="It will pass.", backoff_ms=60_000)
    elif state == "running last":
        for _ in range(2):
            store.retry(job.id, job.token, code="passing", error="It will pass.", backoff_ms=0)
            job.tokens.append(_claim(store, job))
    elif state == "canceling":
        store.cancel(job.id)
    elif state in ("succeeded", "failed"):
        claim = Claimed(id=job.id, token=job.token, input=b"", input_ref="", rows=1, limit_ms=0, attempt=1)
        store.complete(completion(claim, Status(state)))
    return job


def _made_with_batch(store: JobStore, state: str) -> Made:
    batch = parked(store)
    if state == "planned":
        store.complete(completion(claim_next(store, queue=BULK).jobs[0]))
    if state in ("parked", "planned"):
        return Made(batch.id, state, "io", [batch.token])
    job = Made(child_id(batch.id, 0), state, BULK)
    if state == "orphan running":
        job.tokens.append(_claim(store, job))
    store.cancel(batch.id)
    return job


def _claim(store: JobStore, job: Made) -> str:
    (claim,) = claim_next(store, queue=job.queue, solo_first=True).jobs
    assert claim.id == job.id, "another job waited before this one"
    return claim.token


def state_of(store: JobStore, job_id: str) -> str:
    """Its status as the API shows it, or `absent`."""
    job = store.get(job_id)
    return str(job.status) if job else "absent"


def place_of(store: JobStore, job_id: str, queue: str = QUEUE) -> list[str]:
    """The sets it is in: ready, solo, delayed, leases, waiting, ttl, done."""
    sets = {
        "ready": keys.ready(queue),
        "solo": keys.solo(queue),
        "delayed": keys.DELAYED,
        "leases": keys.LEASES,
        "waiting": keys.WAITING,
        "ttl": keys.DEADLINES,
        "done": keys.DONE,
    }
    return [name for name, key in sets.items() if store.client.zscore(key, job_id) is not None]


def assert_clean(store: JobStore) -> None:
    """The auditor finds nothing."""
    assert audit(store) == []


def server_ms(client: redis_py.Redis) -> int:
    """The server's clock, milliseconds."""
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def age(client: redis_py.Redis, milliseconds: int) -> None:
    """Let time pass: everything the store has written with a time becomes that much older.

    The scripts take no time from callers, so what they compare with the server's clock is moved instead.
    """
    client.eval(_AGE, 0, keys.PREFIX, milliseconds)


_AGE = """#!lua flags=allow-oom
local P, by = ARGV[1], tonumber(ARGV[2])
local aged_sets = {
  ready = 1, solo = 1, busy = 1, delayed = 1, leases = 1, waiting = 1, ttl = 1, done = 1, outbox = 1, poison = 1,
  idle = 1}
local aged_fields = {'t_q', 'since', 'turn', 't_s', 't_e', 'exp_at', 'del_at', 'cancel'}
local function earlier(key, names)
  for _, name in ipairs(names) do
    local value = redis.call('HGET', key, name)
    if value then redis.call('HSET', key, name, tonumber(value) - by) end
  end
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local name = string.sub(key, #P + 1)
  local family = string.match(name, '^[^:]+')
  if aged_sets[family] then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -by, member) end
  elseif family == 'job' then
    earlier(key, aged_fields)
  elseif family == 'evt' then
    earlier(key, {'t'})
  elseif family == 'gates' then
    earlier(key, {'pressure'})
  end
  local left = redis.call('PTTL', key)
  if left > 0 then redis.call('PEXPIRE', key, math.max(left - by, 0)) end
end
return redis.status_reply('OK')
"""
