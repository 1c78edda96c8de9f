"""Which values in Redis are sealed, and as what: the word, with the id it belongs to, is bound to the value. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coatcheck.sealed_values import Sealer

#: Of a job (and the stream of its events).
INPUT, OUTPUT, ERROR, PROGRESS, EVENT = "in", "res", "err", "prog", "ev"
#: Of a version: how well it did, with an example row; and its inputs and outputs, with words of the data.
METRICS, SIGNATURE = "metrics", "signature"
#: Of a delivery: what is told, and the first bytes of what was answered.
BODY, ANSWER = "body", "answer"

#: Before a sealed value that has to be text: base64 follows.
TEXT_MAGIC = b"coatcheck-sealed:"

_OF_A_JOB = {word.encode(): word for word in (INPUT, OUTPUT, ERROR, PROGRESS)}


def opened(sealer: Sealer, job_id: str, record: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A job's hash with its sealed fields plain. Raises ArtifactDamaged: one does not decrypt."""
    return {
        name: sealer.open(value, _OF_A_JOB[name], job_id) if name in _OF_A_JOB else value
        for name, value in record.items()
    }


def kept_text(sealer: Sealer | None, value: str, what: str, of: str) -> str:
    """A stranger's text as it is kept: sealed, or without keys so that nobody takes it for one that is."""
    if sealer is not None:
        return sealer.seal_text(value, what, of)
    return " " + value if value.startswith(TEXT_MAGIC.decode()) else value
