"""The check of a training request before it becomes a job: base, destination, datasets, what it goes on from.

Knows the registry, files and other trainings. Knows no queue entry and opens no dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from coatcheck.catalog.base_model import OWNER
from coatcheck.catalog.entries import BASE_MODELS
from coatcheck.catalog.hugging_face import HuggingFaceTraining
from coatcheck.catalog.options import Learning, TrainingInput
from coatcheck.catalog.parse import parse_training_input
from coatcheck.catalog.search_space import search_space
from coatcheck.errors import FileNotFound, InvalidInput
from coatcheck.files import Files
from coatcheck.jobs import Job, Kind, Status
from coatcheck.registry import Registry, Version, check_name
from coatcheck.signature_values import file_id
from coatcheck.store import JobStore

_EXPECTED_FILE = "Expected the id or the address that POST /v1/files answered."
#: What may differ between a training and the one it goes on from.
_MAY_DIFFER = frozenset({"resume_from", "max_minutes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTraining:
    """A request that fits: the base version and the recipe that trains."""

    base: Version
    recipe: str


class TrainingRequests:
    """Checks requests of any account."""

    def __init__(
        self,
        registry: Registry,
        files: Files,
        store: JobStore,
        base_url: str,
        input_of: Callable[[Job], bytes | None],
    ) -> None:
        """`input_of` reads a job's input, wherever it is kept."""
        self._registry = registry
        self._files = files
        self._store = store
        self._base_url = base_url
        self._input_of = input_of

    def check(
        self, account: str, *, base_model: str, version: str, destination: str, given: dict[str, Any]
    ) -> CheckedTraining:
        """Check a training of `base_model` (`catalog/<recipe>`, or a model whose version is trained further).

        Raises:
            InvalidInput, UnknownField, ModelNotFound, VersionNotFound, FileNotFound.
        """
        owner, _, name = base_model.partition("/")
        base = self._registry.version(account, owner, name, version)
        recipe = recipe_of(base)
        if recipe not in BASE_MODELS or (owner != OWNER and recipe == "import"):
            raise InvalidInput(
                f"{base_model} was made elsewhere and cannot be trained; expected one of {_base_models()}, "
                "or a version that one of them made",
                field="version",
            )
        if owner not in (OWNER, account):
            raise InvalidInput(
                f"{base_model} is another account's; expected a base model or a version of your own", field="version"
            )
        self._check_destination(account, destination)
        training = parse_training_input(recipe, given)
        self._check_dataset(account, training.dataset, "input.dataset")
        if isinstance(training, HuggingFaceTraining):
            if not training.encoder and owner == OWNER:
                told = "input.encoder is missing; expected the uploaded archive of an encoder, its id or URL"
                raise InvalidInput(told, field="input.encoder")
            if training.encoder:
                self._check_dataset(account, training.encoder, "input.encoder")
        if isinstance(training, Learning) and training.search:
            search_space(training)
        if isinstance(training, TrainingInput):
            if training.test_dataset:
                self._check_dataset(account, training.test_dataset, "input.test_dataset")
            if training.resume_from:
                self._check_resumed(account, training.resume_from, base, given)
        return CheckedTraining(base=base, recipe=recipe)

    def _check_destination(self, account: str, destination: str) -> None:
        owner, slash, name = destination.partition("/")
        if not slash:
            raise InvalidInput(f"destination is {destination!r}; expected owner/name", field="destination")
        if owner != account:
            raise InvalidInput(
                f"destination belongs to {owner!r}; your key belongs to {account!r}", field="destination"
            )
        check_name(name, "destination")

    def _check_dataset(self, account: str, dataset: str, field: str) -> None:
        if dataset.startswith("data:"):
            return
        found = file_id(dataset, self._base_url) if "/" in dataset else dataset
        try:
            if found is not None:
                self._files.get(account, found)
                return
        except FileNotFound as error:
            raise FileNotFound(f"{field}: {error} {_EXPECTED_FILE}", field=field) from None
        # Of an address elsewhere nothing is repeated: it may hold a password or a signature.
        told = "an address elsewhere" if "://" in dataset or "@" in dataset else repr(dataset[:80])
        raise InvalidInput(f"{field} is {told}. {_EXPECTED_FILE}", field=field)

    def _check_resumed(self, account: str, wanted: str, base: Version, given: dict[str, Any]) -> None:
        field = "input.resume_from"
        job = self._store.get(wanted)
        if job is None or job.account != account or job.kind is not Kind.TRAINING:
            raise InvalidInput(f"{field} is {wanted[:80]!r}; expected the id of a training of yours", field=field)
        if job.status not in (Status.CANCELED, Status.FAILED):
            raise InvalidInput(f"{field} is {job.status}; expected a canceled or failed training", field=field)
        if job.version != base.id:
            raise InvalidInput(f"{field} trained {job.model}; expected a training of the same base", field=field)
        if not job.checkpoint:
            raise InvalidInput(f"{field} is a training that ended before its first checkpoint: start anew", field=field)
        kept = self._input_of(job)
        if kept is None:
            raise InvalidInput(f"{field} is a training whose input is no longer kept: start anew", field=field)
        before = msgspec.json.decode(kept, type=dict[str, Any])
        names = sorted(name for name in {*before, *given} - _MAY_DIFFER if before.get(name) != given.get(name))
        if names:
            raise InvalidInput(
                f"{field} was trained with another {', '.join(names)}; expected the same input", field=field
            )


def recipe_of(version: Version) -> str:
    """The recipe that made a version, or that a base model is; empty for none of ours."""
    if version.owner == OWNER:
        return version.name
    told = msgspec.json.decode(version.metrics)
    return str(told.get("recipe", "")) if isinstance(told, dict) else ""


def _base_models() -> str:
    return ", ".join(entry.name for entry in BASE_MODELS.values())
