"""The base models: what each recipe is called, which options it takes, and the check of a training's input.

Pure: knows no torch and no queue. `workers/recipes/<recipe>.py` trains what is described here; the defaults
are meant to train well untouched.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from coatcheck.errors import InvalidInput, ModelNotFound, UnknownField

#: Owner of every base model.
OWNER = "catalog"

_Size = Annotated[int, Meta(ge=1, le=4096)]
_Share = Annotated[float, Meta(ge=0.02, le=0.5)]
_Epochs = Annotated[int, Meta(ge=1, le=10_000, description="Most passes over the training rows.")]
_Batch = Annotated[int, Meta(ge=1, le=65_536, description="Rows in one training step.")]
_Optimizer = Annotated[Literal["adamw", "adam", "sgd"], Meta(description="How the weights are moved.")]
_Rate = Annotated[float, Meta(gt=0, le=10, description="Highest learning rate; it warms up and decays to zero.")]
_Decay = Annotated[float, Meta(ge=0, le=1, description="Weight decay.")]
_Dropout = Annotated[float, Meta(ge=0, le=0.9, description="Share of hidden units dropped in training.")]
_Patience = Annotated[
    int, Meta(ge=1, le=10_000, description="Epochs without a better validation loss before it stops early.")
]


class TrainingInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every training takes, as the client writes it: flat."""

    dataset: Annotated[str, Meta(min_length=1, description="The dataset: an uploaded file's id or URL, or a data URI.")]
    target: Annotated[
        str, Meta(description="Column (or NPZ array) to predict. Empty looks for target, label or class.")
    ] = ""
    test_fraction: Annotated[_Share, Meta(description="Share of rows held out to measure the result.")] = 0.2
    validation_fraction: Annotated[_Share, Meta(description="Share of rows that decide when to stop.")] = 0.1
    seed: Annotated[
        int, Meta(ge=0, le=2**31 - 1, description="The same seed, data and options give the same weights on a CPU.")
    ] = 0
    max_minutes: (
        Annotated[float, Meta(gt=0, le=43_200, description="Stop after this long and keep the best so far.")] | None
    ) = None


class MlpTraining(TrainingInput, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Input of a training of `catalog/mlp`."""

    task: Annotated[
        Literal["auto", "classification", "regression"],
        Meta(description="auto: words and few different whole numbers are classes, other numbers are values."),
    ] = "auto"
    epochs: _Epochs = 100
    batch_size: _Batch = 64
    optimizer: _Optimizer = "adamw"
    learning_rate: _Rate = 0.005
    weight_decay: _Decay = 0.0001
    hidden: Annotated[list[_Size], Meta(min_length=1, max_length=8, description="Units of each hidden layer.")] = (
        msgspec.field(default_factory=lambda: [64, 64])
    )
    dropout: _Dropout = 0.05
    patience: _Patience = 20


class CnnTraining(TrainingInput, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Input of a training of `catalog/cnn`."""

    image_shape: (
        Annotated[
            list[Annotated[int, Meta(ge=1, le=1024)]],
            Meta(
                min_length=2, max_length=3, description="[height, width] or [height, width, channels] of a CSV's rows."
            ),
        ]
        | None
    ) = None
    epochs: _Epochs = 20
    batch_size: _Batch = 64
    optimizer: _Optimizer = "adamw"
    learning_rate: _Rate = 0.008
    weight_decay: _Decay = 0.01
    channels: Annotated[
        list[Annotated[int, Meta(ge=1, le=512)]],
        Meta(
            min_length=1,
            max_length=6,
            description="Feature maps of each convolution; every second one halves the image.",
        ),
    ] = msgspec.field(default_factory=lambda: [16, 32])
    hidden: Annotated[int, Meta(ge=1, le=4096, description="Units of the layer before the classes.")] = 64
    shift: Annotated[int, Meta(ge=0, le=64, description="Most pixels an image is moved in training.")] = 1
    dropout: _Dropout = 0.1
    patience: _Patience = 15


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """One entry of the catalog."""

    recipe: str
    title: str
    description: str
    input_type: type[TrainingInput]
    example: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`catalog/<recipe>`."""
        return f"{OWNER}/{self.recipe}"

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of a training's `input`, without references."""
        _, components = msgspec.json.schema_components([self.input_type], ref_template="#/{name}")
        schema = dict(components[self.input_type.__name__])
        properties = {
            name: {"title": name, **part, "x-order": order}
            for order, (name, part) in enumerate(schema["properties"].items())
        }
        return {**schema, "title": "Input", "properties": properties, "additionalProperties": False}

    @cached_property
    def openapi_schema(self) -> dict[str, Any]:
        """The document a version of the catalog answers as `openapi_schema`."""
        output = {
            "type": "object",
            "title": "Output",
            "properties": {"version": {"type": "string", "description": "owner/name:id of the version made"}},
        }
        schemas = {"Input": self.input_schema, "TrainingInput": self.input_schema, "Output": output}
        return {
            "openapi": "3.0.2",
            "info": {"title": self.title, "version": "0.1.0", "description": self.description},
            "paths": {},
            "components": {"schemas": schemas},
        }

    @cached_property
    def version(self) -> str:
        """64 hex digits that stay the same as long as the recipe takes the same input."""
        told = json.dumps([self.recipe, _without_words(self.input_schema)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()


def _without_words(schema: Any) -> Any:
    """What a schema accepts, without its texts: better words must not make a new version."""
    if isinstance(schema, list):
        return [_without_words(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _without_words(part) for name, part in schema.items() if name != "properties"}
    if "properties" in schema:
        kept["properties"] = {name: _without_words(part) for name, part in schema["properties"].items()}
    return {name: part for name, part in kept.items() if name not in ("title", "description", "x-order")}


BASE_MODELS: dict[str, BaseModel] = {
    model.recipe: model
    for model in (
        BaseModel(
            recipe="mlp",
            title="Tables",
            description="Classifies or predicts numbers from the rows of a CSV file: numbers, words, true and false.",
            input_type=MlpTraining,
            example={"dataset": "https://.../v1/files/<id>", "target": "species"},
        ),
        BaseModel(
            recipe="cnn",
            title="Small images",
            description="Classifies images: a CSV file, one pixel a column, with image_shape; or NPZ (images, labels).",
            input_type=CnnTraining,
            example={"dataset": "https://.../v1/files/<id>", "target": "digit", "image_shape": [8, 8]},
        ),
    )
}


def base_model(recipe: str) -> BaseModel:
    """The catalog's entry for a recipe, also by its name `catalog/<recipe>`.

    Raises:
        ModelNotFound: there is none; the message lists those there are.
    """
    model = BASE_MODELS.get(recipe.removeprefix(OWNER + "/"))
    if model is None:
        known = ", ".join(entry.name for entry in BASE_MODELS.values())
        raise ModelNotFound(f"{OWNER}/{recipe.removeprefix(OWNER + '/')} is not in the catalog; there are {known}")
    return model


def parse_training_input(recipe: str, given: Any) -> TrainingInput:
    """Check a training's `input` for a recipe and fill in the defaults.

    Raises:
        ModelNotFound: no such recipe.
        UnknownField: an option the recipe does not have.
        InvalidInput: anything else that does not fit; `field` says where, e.g. `input.epochs`.
    """
    model = base_model(recipe)
    if not isinstance(given, dict):
        raise InvalidInput(f"input is {_told(given)}; expected an object with dataset and options", field="input")
    properties = model.input_schema["properties"]
    for name in given:
        if name not in properties:
            raise UnknownField(_unknown(name, model, list(properties)), field=f"input.{name}")
    if "dataset" not in given:
        what = properties["dataset"]["description"]
        raise InvalidInput(f"input.dataset is missing; expected {what[0].lower()}{what[1:]}", field="input.dataset")
    try:
        return msgspec.convert(given, model.input_type)
    except msgspec.ValidationError as exc:
        raise _explain(exc, given, properties) from None


def _unknown(name: str, model: BaseModel, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; it takes " + ", ".join(known)
    return f"input.{name} is not an option of {model.name}{hint}"


def _explain(error: msgspec.ValidationError, given: dict[str, Any], properties: dict[str, Any]) -> InvalidInput:
    match = re.search(r"`\$\.(\w+)(?:\[\d+\]|\[\.\.\.\])*`", str(error))
    if not match:
        return InvalidInput(f"input does not fit: {error}", field="input")
    name = match[1]
    expected = _expected(properties[name])
    return InvalidInput(f"input.{name} is {_told(given[name])}; expected {expected}", field=f"input.{name}")


def _told(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(schema: Mapping[str, Any]) -> str:
    """A JSON Schema property in words."""
    if "anyOf" in schema:
        return " or ".join(_expected(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(word) for word in schema["enum"])
    if schema.get("type") == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        return f"a list of {low} to {high} items, each {_expected(schema['items'])}"
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a text",
        "null": "null",
        "boolean": "true or false",
    }
    kind = words[schema["type"]]
    if schema.get("minLength"):
        return f"{kind} that is not empty"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    if low is None:
        return kind
    return f"{kind} {'above' if 'exclusiveMinimum' in schema else 'from'} {low} to {schema['maximum']}"
