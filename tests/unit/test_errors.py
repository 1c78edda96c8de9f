"""The tree drawn in errors.py is the tree of its classes, and every class says something to a person."""

from __future__ import annotations

import inspect
import re

from coatcheck import errors

INDENT = 4


def classes() -> list[type[errors.CoatcheckError]]:
    found = inspect.getmembers(errors, lambda item: inspect.isclass(item) and issubclass(item, errors.CoatcheckError))
    return [item for _, item in found]


def test_drawn_tree_is_the_tree_of_classes():
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines()[1:]:
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // INDENT
        path = [*path[:depth], line.strip()]
        drawn[line.strip()] = path[-2] if depth else None
    real = {item.__name__: item.__bases__[0].__name__ for item in classes() if item is not errors.CoatcheckError}
    assert drawn == {"CoatcheckError": None, **real}


def test_codes_are_unique_words():
    codes = [item.code for item in classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_message_defaults_to_the_docstring():
    for item in classes():
        assert item.__doc__, item
        assert str(item()) == item.__doc__
        assert str(item("because")) == "because"


def test_field_and_retry_time_are_kept():
    error = errors.InvalidInput("bad", field="input.text", retry_after_s=3)
    assert (error.field, error.retry_after_s) == ("input.text", 3)
