"""What a version takes and gives: the record, the check of an input against it, its JSON Schema.

Pure: knows neither HTTP nor Redis nor arrays, and decodes no pixels (`workers/decoding.py` does). Two paths
check an input: a msgspec decoder made once a signature, and, only when that refuses, a walk that finds the
sentence to say.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from typing import Annotated, Any, Literal, NoReturn, TypeAlias

import msgspec

from coatcheck.errors import InvalidInput, UnknownField
from coatcheck.images import check_image_header, data_uri_bytes

#: Name of the field that carries many inputs at once.
MANY = "instances"
#: Beyond this a number is infinite in the graph's 32-bit floats.
FLOAT_LIMIT = 3.0e38

_FILE_URL = re.compile(r"(?P<base>https?://.+)/v1/files/(?P<id>[A-Za-z0-9_-]{1,64})(?:/content)?/?")
_Number = Annotated[float, msgspec.Meta(ge=-FLOAT_LIMIT, le=FLOAT_LIMIT)]


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """An image. Nested numbers lie in `low`..`high`; an encoded image's 0..255 is mapped onto that range."""

    name: str
    channels: int
    height: int
    width: int
    low: float = 0.0
    high: float = 255.0


class NumberInput(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="number"):
    """A finite number."""

    name: str


class CategoryInput(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="category"):
    """One of the words seen in training; its position is what the graph gets."""

    name: str
    categories: tuple[str, ...]


class BooleanInput(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="boolean"):
    """true or false."""

    name: str


Input: TypeAlias = ImageInput | NumberInput | CategoryInput | BooleanInput


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of the ONNX graph; -1 in `shape` is the batch. Datatype as Open Inference names it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """Inputs as the user gives them, the graph's tensors, and how outputs are told."""

    task: Literal["classification", "regression"]
    inputs: tuple[Input, ...]
    graph_input: Tensor
    graph_outputs: tuple[Tensor, ...]
    #: Class names in the order of the probabilities; empty for a regression.
    classes: tuple[str, ...] = ()
    #: Columns that are predicted.
    targets: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The record as JSON; the same record always gives the same bytes."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Signature:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: it is not a signature.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as exc:
            raise InvalidInput(f"not a signature: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInput:
    """An input that fits its signature."""

    rows: int
    #: The client sent `instances`: outputs are told as a list.
    many: bool
    #: One tuple a row: values as the client gave them, in the order of the signature's inputs.
    values: list[tuple[Any, ...]]
    #: Uploaded files the rows point at, in order of first mention, each with the field that mentions it first.
    files: dict[str, str] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoders:
    one: msgspec.json.Decoder[Any]
    many: msgspec.json.Decoder[Any]
    one_type: Any
    many_type: Any
    #: (position, input) of the images.
    images: tuple[tuple[int, ImageInput], ...]
    takes_many: bool


def validate_input(signature: Signature, raw: bytes | msgspec.Raw | Any, *, base_url: str = "") -> ParsedInput:
    """Check the value of `input` (JSON bytes, or already decoded) against a signature.

    `base_url` is what this service's own file URLs start with; empty takes any host's `/v1/files/<id>`.

    Raises:
        UnknownField: an input the version does not have.
        InvalidInput: anything else that does not fit; `field` says where, e.g. `input.image`.
    """
    decoders = _decoders(signature)
    encoded = isinstance(raw, (bytes, bytearray, memoryview, msgspec.Raw))
    try:
        if encoded:
            many = decoders.takes_many and b'"instances"' in bytes(raw)
            found = (decoders.many if many else decoders.one).decode(raw)
        else:
            many = decoders.takes_many and isinstance(raw, dict) and MANY in raw
            found = msgspec.convert(raw, decoders.many_type if many else decoders.one_type)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _walk(signature, _decode(raw) if encoded else raw, base_url)
    if many and not found.instances:
        _refuse(f"input.{MANY}", "empty", "at least one input")
    values = [msgspec.structs.astuple(row) for row in (found.instances if many else (found,))]
    files: dict[str, str] = {}
    for position, image in decoders.images:
        for number, row in enumerate(values):
            if not _fits(image, row[position]):
                _check_image(image, row[position], _path(image.name, number if many else None), base_url, files)
    return ParsedInput(rows=len(values), many=many, values=values, files=files)


@lru_cache(maxsize=256)
def _decoders(signature: Signature) -> _Decoders:
    fields = [(f"f{number}", _python_type(item)) for number, item in enumerate(signature.inputs)]
    rename = {f"f{number}": item.name for number, item in enumerate(signature.inputs)}
    one = msgspec.defstruct("Input", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    many = msgspec.defstruct("Inputs", [(MANY, list[one])], forbid_unknown_fields=True, gc=False)  # type: ignore[valid-type]
    return _Decoders(
        one=msgspec.json.Decoder(one),
        many=msgspec.json.Decoder(many),
        one_type=one,
        many_type=many,
        images=tuple((number, item) for number, item in enumerate(signature.inputs) if isinstance(item, ImageInput)),
        takes_many=MANY not in rename.values(),
    )


def _python_type(item: Input) -> Any:
    if isinstance(item, ImageInput):
        rows = list[list[_Number]] if item.channels == 1 else list[list[list[_Number]]]
        return rows | str
    if isinstance(item, CategoryInput):
        return Literal[item.categories]
    return bool if isinstance(item, BooleanInput) else _Number


def _fits(image: ImageInput, rows: Any) -> bool:
    if isinstance(rows, str):
        return False
    if image.channels == 1:
        return len(rows) == image.height and set(map(len, rows)) == {image.width}
    return image_axes(image, nested_shape(rows)) != ""


def nested_shape(value: Any) -> tuple[int, ...]:
    """Lengths of nested lists, outermost first; () if they are ragged or hold no numbers at the bottom.

    Raises nothing: what is wrong is for the caller to say.
    """
    if not isinstance(value, list):
        return ()
    if not value or not isinstance(value[0], list):
        return (len(value),) if all(type(number) in (int, float) for number in value) else ()
    inner = nested_shape(value[0])
    return (len(value), *inner) if inner and all(nested_shape(row) == inner for row in value) else ()


def image_axes(image: ImageInput, shape: tuple[int, ...]) -> str:
    """Which axes nested numbers of this shape have: "HW", "HWC" or "CHW"; empty if they do not fit."""
    channels, height, width = image.channels, image.height, image.width
    if shape == (height, width) and channels == 1:
        return "HW"
    if shape == (height, width, channels):
        return "HWC"
    return "CHW" if shape == (channels, height, width) else ""


def file_id(url: str, base_url: str = "") -> str | None:
    """The id in one of our own file URLs, None for any other address."""
    match = _FILE_URL.fullmatch(url)
    return match["id"] if match and base_url.rstrip("/") in ("", match["base"]) else None


def _path(name: str, number: int | None) -> str:
    return f"input.{name}" if number is None else f"input.{MANY}[{number}].{name}"


def _refuse(field: str, found: str, expected: str) -> NoReturn:
    raise InvalidInput(f"{field} is {found}; expected {expected}", field=field)


def _describe(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {value[:40]!r}" + ("..." if len(value) > 40 else "")
    if isinstance(value, list):
        shape = nested_shape(value)
        return f"a list of {'x'.join(map(str, shape)) if shape else len(value)} " + ("numbers" if shape else "values")
    return "an object" if isinstance(value, dict) else f"{value!r:.40}"


def _decode(raw: Any) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"input is not JSON: {exc}", field="input") from None


def _walk(signature: Signature, value: Any, base_url: str) -> ParsedInput:
    """Say what is wrong with an input the decoder refused, or take it if it has a form only this walk knows."""
    if not isinstance(value, dict):
        _refuse("input", _describe(value), "an object with " + _names(signature))
    many = MANY in value and _decoders(signature).takes_many
    if many and (not isinstance(value[MANY], list) or not value[MANY]):
        _refuse(f"input.{MANY}", _describe(value[MANY]), "a list of at least one input")
    if many and len(value) > 1:
        extra = next(name for name in value if name != MANY)
        raise UnknownField(f"input.{extra} stands beside {MANY}; expected {MANY} alone", field=f"input.{extra}")
    instances = value[MANY] if many else [value]
    files: dict[str, str] = {}
    values = [
        _walk_row(signature, instance, number if many else None, base_url, files)
        for number, instance in enumerate(instances)
    ]
    return ParsedInput(rows=len(values), many=many, values=values, files=files)


def _walk_row(
    signature: Signature, row: Any, number: int | None, base_url: str, files: dict[str, str]
) -> tuple[Any, ...]:
    if not isinstance(row, dict):
        _refuse(f"input.{MANY}[{number}]", _describe(row), "an object with " + _names(signature))
    known = {item.name for item in signature.inputs}
    for extra in row:
        if extra not in known:
            field = _path(extra, number)
            raise UnknownField(f"{field} is not an input; expected {_names(signature)}", field=field)
    for item in signature.inputs:
        field = _path(item.name, number)
        if item.name not in row:
            raise InvalidInput(f"{field} is missing; expected {_expected(item)}", field=field)
        _check(item, row[item.name], field, base_url, files)
    return tuple(row[item.name] for item in signature.inputs)


def _names(signature: Signature) -> str:
    names = [item.name for item in signature.inputs]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _expected(item: Input) -> str:
    if isinstance(item, ImageInput):
        size = f"{item.height}x{item.width}" + (f"x{item.channels}" if item.channels > 1 else "")
        return f"an image: nested lists of {size} numbers, a data URI, or the URL of an uploaded file"
    if isinstance(item, CategoryInput):
        words = ", ".join(repr(word) for word in item.categories[:10])
        return "one of " + words + (f" and {len(item.categories) - 10} more" if len(item.categories) > 10 else "")
    return "true or false" if isinstance(item, BooleanInput) else "a finite number"


def _check(item: Input, value: Any, field: str, base_url: str, files: dict[str, str]) -> None:
    if isinstance(item, ImageInput):
        _check_image(item, value, field, base_url, files)
    elif isinstance(item, NumberInput):
        if type(value) not in (int, float) or not _finite(value):
            _refuse(field, _describe(value), _expected(item))
    elif isinstance(item, CategoryInput):
        if not isinstance(value, str) or value not in item.categories:
            _refuse(field, _describe(value), _expected(item))
    elif not isinstance(value, bool):
        _refuse(field, _describe(value), _expected(item))


def _finite(value: float) -> bool:
    return -FLOAT_LIMIT <= value <= FLOAT_LIMIT and math.isfinite(value)


def _check_image(item: ImageInput, value: Any, field: str, base_url: str, files: dict[str, str]) -> None:
    if isinstance(value, str):
        if value.startswith("data:"):
            check_image_header(data_uri_bytes(value, field), field)
            return
        found = file_id(value, base_url)
        if found is None:
            hint = "upload the file to /v1/files and send its URL, or send a data URI"
            raise InvalidInput(f"{field} is {_describe(value)}; other addresses are not fetched: {hint}", field=field)
        files.setdefault(found, field)
        return
    shape = nested_shape(value)
    if not image_axes(item, shape):
        flat = shape == (item.channels * item.height * item.width,)
        found_words = "a flat list" if flat else _describe(value)
        if isinstance(value, list) and not shape:
            found_words += " that are not rows of numbers of equal length"
        _refuse(field, found_words, _expected(item))
    if not _all_finite(value):
        _refuse(field, "an image with a number that is not finite", "finite numbers")


def _all_finite(value: Any) -> bool:
    return all(_all_finite(item) for item in value) if isinstance(value, list) else _finite(value)


def input_schema(signature: Signature) -> dict[str, Any]:
    """JSON Schema of the value of `input`: one set of inputs, or `instances` with many."""
    properties = {item.name: {**_schema(item), "x-order": order} for order, item in enumerate(signature.inputs)}
    required = [item.name for item in signature.inputs]
    one = {"type": "object", "title": "Input", "properties": properties, "required": required}
    many = {"type": "array", "minItems": 1, "items": {**one, "additionalProperties": False}, "title": "Instances"}
    properties = {**properties, MANY: {**many, "description": "Many inputs at once, instead of the others."}}
    return {
        "type": "object",
        "title": "Input",
        "properties": properties,
        "oneOf": [{"required": required}, {"required": [MANY]}],
        "additionalProperties": False,
    }


def _schema(item: Input) -> dict[str, Any]:
    title = {"title": item.name}
    if isinstance(item, ImageInput):
        rows = _array(_array({"type": "number"}, item.width), item.height)
        if item.channels > 1:
            pixel = _array({"type": "number"}, item.channels)
            first = _array(_array({"type": "number"}, item.width), item.height)
            rows = {"anyOf": [_array(_array(pixel, item.width), item.height), _array(first, item.channels)]}
        text = {"type": "string", "format": "uri", "description": "data URI, or URL of an uploaded file"}
        return {**title, "description": _expected(item), "anyOf": [rows, text]}
    if isinstance(item, CategoryInput):
        return {**title, "type": "string", "enum": list(item.categories)}
    return {**title, "type": "boolean" if isinstance(item, BooleanInput) else "number"}


def _array(items: dict[str, Any], length: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def output_schema(signature: Signature) -> dict[str, Any]:
    """JSON Schema of the output of one input (a list of these when `instances` were sent)."""
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    if signature.task == "classification":
        properties: dict[str, Any] = {
            "label": {"type": "string", "enum": list(signature.classes)},
            "probabilities": {**numbers, "required": list(signature.classes)},
        }
    elif len(signature.targets) > 1:
        properties = {"values": {**numbers, "required": list(signature.targets)}}
    else:
        properties = {"value": {"type": "number"}}
    return {"type": "object", "title": "Output", "properties": properties, "required": list(properties)}
