"""The report of a dry run whose table was caught: told from what was counted before the refusal, not read again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from coatcheck.catalog.mlp import MlpTraining
from coatcheck.errors import InvalidInput
from workers.data.load import Counted, load, refused_report
from workers.data.profile import profile
from workers.data.refusals import refused
from workers.data.report import Report

ONE_CLASS = (
    "size,color,kind\n" + "".join(f"{n},{'red' if n % 2 else 'blue'},same\n" for n in range(40)) + "1,red,same\n"
)


@pytest.fixture
def reading() -> Iterator[mock.Mock]:
    """Counts how often a table is read for its profile."""
    with mock.patch("workers.data.load.profile", wraps=profile) as watched:
        yield watched


def report_of(path: Path, counted: Counted, **given: str) -> Report:
    options = msgspec.convert({"dataset": "x", **given}, MlpTraining)
    with pytest.raises(InvalidInput) as caught:
        load(path, options, folder=path.parent / "work", recipe="mlp", counted=counted)
    return refused_report(path, options, "mlp", caught.value, counted)


def test_refusal_after_the_table_was_counted_is_told_without_reading_it_again(tmp_path, reading):
    path = tmp_path / "dataset"
    path.write_text(ONE_CLASS)
    found = report_of(path, Counted(), target="kind")
    assert reading.call_count == 1
    assert (found.rows, found.duplicates, found.target) == (41, 1, ["kind"])
    assert [(column.name, column.used_as) for column in found.columns] == [
        ("size", "dropped"), ("color", "dropped"), ("kind", "target")
    ]  # fmt: skip
    assert [warning.code for warning in found.warnings][-1] == "one_class_only"
    options = msgspec.convert({"dataset": "x", "target": "kind"}, MlpTraining)
    why = refused("one_class_only", "it has one class")
    afresh = refused_report(path, options, "mlp", why, Counted())
    assert reading.call_count == 2
    assert afresh.columns == found.columns
    assert afresh.warnings[:-1] == found.warnings[:-1]


def test_refusal_by_the_names_alone_is_told_with_the_table_read_once(tmp_path, reading):
    path = tmp_path / "dataset"
    path.write_text(ONE_CLASS)
    found = report_of(path, Counted(), target="sort")
    assert reading.call_count == 1
    assert (found.rows, found.target) == (41, [])
    assert found.warnings[-1].code == "target_missing"


def test_key_that_comes_late_in_a_file_that_is_taken_is_told_too(tmp_path):
    path = tmp_path / "dataset"
    lines = [f'{{"size": {n}, "kind": "{"ab"[n % 2]}"}}' for n in range(10_050)]
    path.write_text("\n".join([*lines, '{"size": 1, "kind": "a", "color": "red"}']) + "\n")
    options = msgspec.convert({"dataset": "x", "target": "kind"}, MlpTraining)
    report = load(path, options, folder=tmp_path / "work", recipe="mlp").report
    assert [warning.code for warning in report.warnings if warning.code == "late_key"] == ["late_key"]
