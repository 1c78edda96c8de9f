"""The check of an input against a signature: rows, `instances`, and the sentence to say when it does not fit.

Knows neither HTTP nor Redis nor arrays, and decodes no pixels (`workers/decoding.py` does). Two paths check an
input: a msgspec decoder made once a signature, and, only when that refuses, a walk that finds the sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from typing import Any

import msgspec

from coatcheck.errors import InvalidInput, UnknownField
from coatcheck.signature import Input, Signature
from coatcheck.signature_values import check, describe, expected, fits, needs_look, python_type, refuse

#: Name of the field that carries many inputs at once.
MANY = "instances"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedInput:
    """An input that fits its signature."""

    rows: int
    #: The client sent `instances`: outputs are told as a list.
    many: bool
    #: One tuple a row: values as the client gave them (None: missing), in the order of the signature's inputs.
    values: list[tuple[Any, ...]]
    #: Uploaded files the rows point at, in order of first mention, each with the field that mentions it first.
    files: dict[str, str] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoders:
    one: msgspec.json.Decoder[Any]
    many: msgspec.json.Decoder[Any]
    one_type: Any
    many_type: Any
    #: (position, input) of those whose type is not the whole check.
    looks: tuple[tuple[int, Input], ...]
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
        refuse(f"input.{MANY}", "empty", "at least one input")
    values = [msgspec.structs.astuple(row) for row in (found.instances if many else (found,))]
    files: dict[str, str] = {}
    if blank := [n for n, row in enumerate(values) if row and row[0] is None and row.count(None) == len(row)]:
        given: Any = _decode(raw) if encoded else raw  # nulls, or nothing at all
        for number in blank:
            _walk_row(signature, given[MANY][number] if many else given, number if many else None, base_url, files)
    for position, item in decoders.looks:
        for number, row in enumerate(values):
            if not fits(item, row[position]):
                check(item, row[position], _path(item.name, number if many else None), base_url, files)
    return ParsedInput(rows=len(values), many=many, values=values, files=files)


@lru_cache(maxsize=256)
def _decoders(signature: Signature) -> _Decoders:
    fields: list[Any] = [
        (f"f{number}", python_type(item), *(() if _required(item) else (None,)))
        for number, item in enumerate(signature.inputs)
    ]
    rename = {f"f{number}": item.name for number, item in enumerate(signature.inputs)}
    # kw_only: a column that may be left out can stand before one that may not.
    one = msgspec.defstruct("Input", fields, rename=rename, forbid_unknown_fields=True, gc=False, kw_only=True)
    many = msgspec.defstruct("Inputs", [(MANY, list[one])], forbid_unknown_fields=True, gc=False)  # type: ignore[valid-type]
    return _Decoders(
        one=msgspec.json.Decoder(one),
        many=msgspec.json.Decoder(many),
        one_type=one,
        many_type=many,
        looks=tuple((number, item) for number, item in enumerate(signature.inputs) if needs_look(item)),
        takes_many=MANY not in rename.values(),
    )


def _required(item: Input) -> bool:
    return getattr(item, "required", True)


def _path(name: str, number: int | None) -> str:
    return f"input.{name}" if number is None else f"input.{MANY}[{number}].{name}"


def _decode(raw: Any) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"input is not JSON: {exc}", field="input") from None


def _walk(signature: Signature, value: Any, base_url: str) -> ParsedInput:
    """Say what is wrong with an input the decoder refused, or take it if it has a form only this walk knows."""
    if not isinstance(value, dict):
        refuse("input", describe(value), "an object with " + _names(signature))
    many = MANY in value and _decoders(signature).takes_many
    if many and (not isinstance(value[MANY], list) or not value[MANY]):
        refuse(f"input.{MANY}", describe(value[MANY]), "a list of at least one input")
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
        refuse(f"input.{MANY}[{number}]", describe(row), "an object with " + _names(signature))
    known = {item.name for item in signature.inputs}
    for extra in row:
        if extra not in known:
            field = _path(extra, number)
            raise UnknownField(f"{field} is not an input; expected {_names(signature)}", field=field)
    for item in signature.inputs:
        field = _path(item.name, number)
        if item.name in row:
            check(item, row[item.name], field, base_url, files)
        elif _required(item):
            raise InvalidInput(f"{field} is missing; expected {expected(item)}", field=field)
    if not row and signature.inputs:  # each may be missing, but a row of nothing is a mistake
        refuse("input" if number is None else f"input.{MANY}[{number}]", "empty", "an object with " + _names(signature))
    return tuple(row.get(item.name) for item in signature.inputs)


def _names(signature: Signature) -> str:
    names = [item.name for item in signature.inputs]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
