"""Names of the Redis keys that Python touches; the scripts build theirs from the same prefix.

`q:{c}:` holds the one hash tag of the whole service: everything lies in one slot.
"""

from __future__ import annotations

from coatcheck.jobs import SHARD

PREFIX = f"q:{{{SHARD}}}:"

LEASES = PREFIX + "leases"
WAITING = PREFIX + "waiting"
DELAYED = PREFIX + "delayed"
DONE = PREFIX + "done"
DEADLINES = PREFIX + "ttl"
OPEN_JOBS = PREFIX + "open"
#: Hash account -> its trainings that have not ended.
OPEN_TRAININGS = PREFIX + "open_trainings"
COUNTERS = PREFIX + "cnt"
GATES = PREFIX + "gates"
TOMBSTONES = PREFIX + "tombs"
OUTBOX = PREFIX + "outbox"
#: Set of `owner/name`: models not served through the Open Inference dialect now.
UNLOADED = PREFIX + "unloaded"
EXPIRING_FILES = PREFIX + "expiring_files"
#: Sorted set `owner/name` -> created ms: the models that every account may read.
PUBLIC_MODELS = PREFIX + "public_models"
#: Sorted set account -> created ms: every account.
ACCOUNTS = PREFIX + "accounts"
#: Hash account -> the kinds of job that some endpoint of it wants to hear of.
HOOKED = PREFIX + "hooked"
#: Stream: the newest entries of the audit log, of all accounts.
AUDIT = PREFIX + "audit"
#: Hash account -> since when it is being deleted, ms: nothing of it is accepted.
LEAVING = PREFIX + "leaving"
#: Field of the gates, with the account behind it, ms: it is being deleted, or was on this day.
LEFT = "leaving:"
#: Sorted set job id -> when its input and output go, ms: those that are not kept (`retain: "none"`).
FADING = PREFIX + "fading"
#: Sorted set artifact prefix -> since when no record names it, ms: it is to be removed.
DOOMED = PREFIX + "doomed"
#: Hash file id -> its account, and ` output` behind it for a job's: files that were begun and have no record yet.
UPLOADING = PREFIX + "uploading"
#: String: signs the cookies of all web processes.
SESSION_SECRET = PREFIX + "session_secret"
#: Pub/sub channel of the worker-io processes, which tell a job's webhook of its progress.
HOOKS_CHANNEL = PREFIX + "hooks"
#: Hash id of an encryption key -> since when something may lie under it, ms.
ENCRYPTION_KEYS = PREFIX + "encryption_keys"


def job(job_id: str) -> str:
    """Hash: the job record."""
    return f"{PREFIX}job:{job_id}"


def ready(queue: str) -> str:
    """Sorted set id -> enqueued ms, of a chunk its turn among the batches: first attempts."""
    return f"{PREFIX}ready:{queue}"


def solo(queue: str) -> str:
    """Sorted set id -> due ms: later attempts, claimed one at a time."""
    return f"{PREFIX}solo:{queue}"


def busy(family: str) -> str:
    """Sorted set queue -> its oldest entry's ms: the queues `<family>` or `<family>:<version>` that have work."""
    return f"{PREFIX}busy:{family}"


def wake(worker_kind: str) -> str:
    """List of queue names: hints that idle workers block on."""
    return f"{PREFIX}wake:{worker_kind}"


def idle(worker_kind: str) -> str:
    """Sorted set '<lease ms> <worker>' -> until when: workers that wait for work and may be handed a job."""
    return f"{PREFIX}idle:{worker_kind}"


def hand(worker: str) -> str:
    """List of at most one: the job that `submit` claimed for this idle worker, which blocks on it."""
    return f"{PREFIX}hand:{worker}"


def bell(queue: str) -> str:
    """String, short-lived: a hint for this queue is under way."""
    return f"{PREFIX}bell:{queue}"


def jobs_of(account: str, kind: str) -> str:
    """Sorted set id -> the id's own time ms: an account's jobs of a kind."""
    return f"{PREFIX}of:{account}:{kind}"


def events(job_id: str) -> str:
    """Stream: progress of a training or batch."""
    return f"{PREFIX}ev:{job_id}"


def alive(worker: str) -> str:
    """String, 15 s: this worker process lives; its value is the process's metrics as JSON."""
    return f"{PREFIX}alive:{worker}"


def model(owner: str, name: str) -> str:
    """Hash: a model."""
    return f"{PREFIX}model:{owner}/{name}"


def models(owner: str) -> str:
    """Sorted set name -> created ms: an owner's models."""
    return f"{PREFIX}models:{owner}"


def version(version_id: str) -> str:
    """Hash: a published version."""
    return f"{PREFIX}version:{version_id}"


def versions(owner: str, name: str) -> str:
    """Sorted set version id -> number: a model's versions."""
    return f"{PREFIX}versions:{owner}/{name}"


def aliases(owner: str, name: str) -> str:
    """Hash alias -> version id."""
    return f"{PREFIX}aliases:{owner}/{name}"


def alias_log(owner: str, name: str, alias: str) -> str:
    """Stream: every change of an alias, never trimmed."""
    return f"{PREFIX}alias_log:{owner}/{name}:{alias}"


def alias_back(owner: str, name: str, alias: str) -> str:
    """List of version ids, newest first: what rolling the alias back leads to."""
    return f"{PREFIX}alias_back:{owner}/{name}:{alias}"


def alias_names(owner: str, name: str) -> str:
    """Set: every alias the model ever had."""
    return f"{PREFIX}alias_names:{owner}/{name}"


def based(version_id: str) -> str:
    """Set of version ids: those trained on from this one."""
    return f"{PREFIX}based:{version_id}"


def file(file_id: str) -> str:
    """Hash: an uploaded file."""
    return f"{PREFIX}file:{file_id}"


def files(account: str) -> str:
    """Sorted set file id -> created ms: an account's files."""
    return f"{PREFIX}files:{account}"


def api_key(digest: str) -> str:
    """Hash: the key whose secret has this SHA-256."""
    return f"{PREFIX}key:{digest}"


def keys_of(account: str) -> str:
    """Hash key id -> digest: an account's keys."""
    return f"{PREFIX}keys_of:{account}"


def account(name: str) -> str:
    """Hash: an account."""
    return f"{PREFIX}account:{name}"


def audit_of(account: str) -> str:
    """Stream: an account's newest entries of the audit log."""
    return f"{PREFIX}audit:{account}"


def creation(digest: str) -> str:
    """Hash, 72 hours: what a creating request with this Idempotency-Key makes or has made."""
    return f"{PREFIX}creation:{digest}"


def stored(account: str) -> str:
    """Hash: bytes of an account in storage, `total` and `m:<model>` (`m:` for its files)."""
    return f"{PREFIX}stored:{account}"


def usage(account: str, day: int) -> str:
    """Hash, 401 days: what an account used on a day since the epoch (UTC), `<j|r|o|u|s>:<model>`."""
    return f"{PREFIX}use:{account}:{day}"


def rate(name: str) -> str:
    """String, short-lived: when a rate of requests would be idle again, microseconds."""
    return f"{PREFIX}rate:{name}"


def endpoint(endpoint_id: str) -> str:
    """Hash: an endpoint that is told of an account's jobs."""
    return f"{PREFIX}hook:{endpoint_id}"


def endpoints(account: str) -> str:
    """Set of endpoint ids: an account's endpoints."""
    return f"{PREFIX}hooks_of:{account}"


def delivery(delivery_id: str) -> str:
    """Hash: one event told to one receiver."""
    return f"{PREFIX}dlv:{delivery_id}"


def deliveries(account: str) -> str:
    """Sorted set delivery id -> made ms: an account's deliveries."""
    return f"{PREFIX}dlvs:{account}"


def told_file(event: str) -> str:
    """String, short-lived: the artifact prefix with this event's body is needed."""
    return f"{PREFIX}told:{event}"


def minute(number: int) -> str:
    """Hash: counts and latency buckets of one minute since the epoch."""
    return f"{PREFIX}min:{number}"


def web_channel(nonce: str) -> str:
    """Pub/sub channel of one web process."""
    return f"{PREFIX}web:{nonce}"
