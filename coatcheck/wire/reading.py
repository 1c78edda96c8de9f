"""JSON bodies and query values, read and checked: the sentence that says what does not fit, for every dialect.

Pure. Knows no request and no dialect: the caller says which type a body has.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from coatcheck.errors import CoatcheckError, InvalidInput

LONGEST_URL = 2048

T = TypeVar("T")


def decode_body(body: bytes, kind: type[T]) -> T:
    """Read a JSON body as `kind`.

    Raises:
        InvalidInput: it is not JSON or does not fit; names the field, what was found and what was expected.
    """
    if not body:
        raise InvalidInput("The body is empty; expected a JSON object")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise misfit(str(error), kind) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"The body is not JSON: {_decode_hint(body, str(error))}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is not UTF-8: byte {error.start} of one of its texts") from None
    except RecursionError:
        raise InvalidInput("The body is nested too deeply; expected at most a few hundred levels") from None


@contextlib.contextmanager
def field_named(ours: str, theirs: str) -> Iterator[None]:
    """What is said of a field is said under the name that it has in the request at hand."""
    try:
        yield
    except CoatcheckError as error:
        if error.field == ours:
            error.field, error.args = theirs, (str(error).replace(ours, theirs, 1),)
        raise


def misfit(message: str, kind: Any) -> InvalidInput:
    """A sentence of msgspec's about a `kind`, its path as a field: "Expected `str`, got `int` - at `$.version`"."""
    placed = re.fullmatch(r"(.*) - at `\$([^`]*)`", message, re.DOTALL)  # the last: a text may hold such words too
    text, path = (placed[1], placed[2]) if placed else (message, "")
    field = path.lstrip(".") or None
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        return InvalidInput(f"{field} is missing", field=field)
    words = re.fullmatch(r"Expected `(.+)`, got `(.+)`", text)
    if words:
        expected = words[1].replace("object | null", "object").replace("str", "text")
        return InvalidInput(f"{field or 'The body'} is {words[2]}; expected {expected}", field=field)
    word = re.fullmatch(r"Invalid enum value '(.*)'", text, re.DOTALL)
    if word and field and (allowed := ", ".join(_words_of(kind, field))):
        return InvalidInput(f"{field} is {word[1][:40]!r}; expected one of {allowed}", field=field)
    return InvalidInput(f"{field or 'The body'} does not fit: {text}", field=field)


def _words_of(kind: Any, field: str) -> list[str]:
    """The words that a type takes at a field such as `events[0]`."""
    found = _parts(inspect.type_info(kind))
    for step in re.findall(r"[^.\[\]]+", field):
        found = [part for one in found for inner in _inside(one, step) for part in _parts(inner)]
    return [str(value) for one in found if isinstance(one, inspect.LiteralType) for value in one.values if value]


def _parts(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _inside(kind: inspect.Type, step: str) -> list[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return [member.type for member in kind.fields if member.encode_name == step]
    return [kind.item_type] if isinstance(kind, (inspect.ListType, inspect.VarTupleType)) else []


def _decode_hint(body: bytes, message: str) -> str:
    position = re.search(r"\(byte (\d+)\)", message)
    if position:
        found = body[int(position[1]) :][:9]
        if found.lstrip(b"-").startswith((b"NaN", b"Inf", b"nan", b"inf")):
            return f"{found.decode('ascii', 'replace')} at byte {position[1]}; JSON has no NaN or Infinity"
    return message.removeprefix("JSON is malformed: ")


def parse_seconds(text: str, field: str, *, low: float, high: float) -> float:
    """A number of seconds from a query.

    Raises:
        InvalidInput: not a number, or out of range.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not low <= seconds <= high:
        raise InvalidInput(f"{field} is {text[:40]!r}; expected seconds from {low:g} to {high:g}", field=field)
    return seconds


def parse_choice(text: str, field: str, choices: Iterable[str]) -> str:
    """One of `choices`.

    Raises:
        InvalidInput: another word.
    """
    known = list(choices)
    if text not in known:
        raise InvalidInput(f"{field} is {text[:40]!r}; expected one of {', '.join(known)}", field=field)
    return text


def parse_count(text: str, field: str, *, low: int, high: int) -> int:
    """A whole number from a query.

    Raises:
        InvalidInput: not a whole number, or out of range.
    """
    if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
        raise InvalidInput(f"{field} is {text[:40]!r}; expected a whole number from {low} to {high}", field=field)
    return int(text)


def parse_time(text: str, field: str) -> int:
    """An ISO 8601 time (UTC when it names no zone) as milliseconds since the epoch.

    Raises:
        InvalidInput: it is not one.
    """
    try:
        found = datetime.fromisoformat(text)
        moment = found if found.tzinfo else found.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{field} is {text[:40]!r}; expected a time like 2026-01-31T12:00:00Z", field=field
        ) from None


def parse_address(url: str, field: str) -> str:
    """An address that can be called.

    Raises:
        InvalidInput: it is none, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
        parts = None
    if not fits or len(url) > LONGEST_URL or not url.isprintable() or " " in url:
        raise InvalidInput(f"{field} is {url[:80]!r}; expected an http:// or https:// address", field=field)
    if parts is not None and (parts.username is not None or parts.password is not None):
        raise InvalidInput(f"{field} has a user or password in it; expected an address without", field=field)
    return url
