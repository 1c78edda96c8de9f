"""Tables in every format that is read: the same rows give the same dataset, and broken files a word and a sentence."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coatcheck.catalog.options import TrainingInput
from coatcheck.catalog.parse import parse_training_input
from coatcheck.errors import InvalidInput
from workers.data.dataset import Dataset
from workers.data.load import load

COLUMNS: dict[str, list[Any]] = {
    "size": [float(n) / 4 if n % 9 else None for n in range(60)],
    "colour": ["red" if n % 3 else "blue" for n in range(60)],
    "wild": [n % 2 == 0 for n in range(60)],
    "born": [dt.date(2020, 1, 1) + dt.timedelta(days=n) for n in range(60)],
    "label": ["x" if n % 4 else "y" for n in range(60)],
}


ROWS = "1,x\n2,y\n" * 30


def options(**given: Any) -> TrainingInput:
    recipe = given.pop("recipe", "mlp")
    parsed = parse_training_input(recipe, {"dataset": "x", **given})
    assert isinstance(parsed, TrainingInput)
    return parsed


def read(tmp_path: Path, content: str | bytes, recipe: str = "mlp", **given: Any) -> Dataset:
    path = tmp_path / "dataset"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path, options(recipe=recipe, **given), folder=tmp_path / "work", recipe=recipe)


def rows() -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]


def as_csv(delimiter: str = ",") -> str:
    def cell(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    lines = [delimiter.join(COLUMNS), *(delimiter.join(cell(value) for value in row.values()) for row in rows())]
    return "\n".join(lines) + "\n"


def as_jsonl() -> str:
    return "".join(json.dumps(row, default=str) + "\n" for row in rows())


def as_parquet(columns: dict[str, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS if columns is None else columns), buffer)
    return buffer.getvalue()


def parquet_that_says_more_rows() -> bytes:
    """Thrift's 60 (a zigzag varint, after the byte of a 64-bit field) is 62 wherever the footer has it."""
    content = as_parquet()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content[:start] + content[start:].replace(b"\x16\x78", b"\x16\x7c")


@pytest.mark.parametrize("content", [as_csv("\t"), as_csv(";"), as_jsonl(), as_parquet()])
def test_the_same_rows_give_the_same_dataset_in_every_format(tmp_path, content):
    first, other = read(tmp_path, as_csv()), read(tmp_path / "..", content)
    assert first.inputs == other.inputs
    assert first.classes == other.classes == ("x", "y")
    assert np.array_equal(first.rows, other.rows, equal_nan=True)
    assert np.array_equal(first.labels, other.labels)
    assert np.array_equal(first.split.train, other.split.train)
    kinds = {column.name: column.kind for column in other.report.columns}
    assert kinds == {"size": "number", "colour": "category", "wild": "boolean", "born": "date", "label": "category"}
    assert first.rows[1].tolist() == [0.25, 1.0, 0.0, 18263.0]
    assert np.isnan(first.rows[0, 0])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([(n * 7 + 21) % 60 for n in range(60)], pa.uint8()),
        pa.array([(n * 7 + 21) % 60 for n in range(60)], pa.int64()),
        pa.array([(n * 7 + 21) % 60 for n in range(60)], pa.float32()),
        pa.array([f"{(n * 7 + 21) % 60}.50" for n in range(60)]).cast(pa.decimal128(10, 2)),
        pa.array([str((n * 7 + 21) % 60) for n in range(60)]).dictionary_encode(),
    ],
)
def test_parquet_numbers_of_every_type_are_read(tmp_path, column):
    dataset = read(tmp_path, as_parquet({"a": column, "b": [1.0, 2.0] * 30, "label": COLUMNS["label"]}))
    assert dataset.inputs[0].name == "a"
    assert dataset.rows[3, 0] in {42.0, 42.5}


def test_parquet_times_are_read_in_utc_and_what_is_no_cell_is_left_out_with_the_reason(tmp_path):
    zone = dt.timezone(dt.timedelta(hours=6))
    times = [dt.datetime(1970, 1, 2, 12, tzinfo=zone) + dt.timedelta(hours=n) for n in range(60)]
    content = as_parquet({
        "when": pa.array(times, pa.timestamp("ns", "Asia/Almaty")),
        "raw": [b"\xff"] * 60,
        "nested": [{"a": 1}] * 60,
        "label": COLUMNS["label"],
    })  # fmt: skip
    dataset = read(tmp_path, content)
    assert [item.name for item in dataset.inputs] == ["when"]
    assert dataset.rows[0, 0] == pytest.approx(1.25, abs=1 / 24)
    why = {column.name: column.why for column in dataset.report.columns if column.used_as == "dropped"}
    assert set(why) == {"raw", "nested"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"PAR1 and then nothing", "not_parquet"),
        (as_parquet()[:-20], "not_parquet"),
        (as_parquet()[:-8] + b"\xff\xff\xff\x7fPAR1", "not_parquet"),
        (b"PAR1" + b"\0" * 200 + b"\x64\0\0\0PAR1", "not_parquet"),
        (parquet_that_says_more_rows(), "not_parquet"),
        (as_parquet({}), "no_usable_rows"),
        ('[{"a": 1}]', "not_jsonl"),
        ('{"a": 1\n' * 30, "not_jsonl"),
        ("{}\n" * 30, "not_jsonl"),
        ('{"a": 1, "label": "x"}\n' + "3\n" * 30, "not_jsonl"),
        ('{"a": "' + "x" * 5_000_000 + '"}\n', "cell_too_large"),
        ("a,label\n1,x\n" + "x" * 10_000_000 + ",y\n", "cell_too_large"),
        ('a,label\n1,x\n2,"' + "y\n2,y\n" * 1_000_000, "quote_not_closed"),
        ('a,label\n1,x\n2,"' + "y\n2,y\n" * 3_000_000, "cell_too_large"),
        ("a,label\n" + ROWS + '3,"x\n' + ROWS * 20, "quote_not_closed"),
        ("a,label\n" + ROWS + '3,4,"x\n' + ROWS * 20, "quote_not_closed"),
        ('"a,label\n' + "1,x\n" * 30, "not_a_csv"),
        (",,\n" + "1,2,x\n" * 30, "not_a_csv"),
        ("\n" * 50, "empty_file"),
        (",".join(f"c{n}" for n in range(20_001)) + "\n1\n", "too_large"),
    ],
)
def test_files_that_do_not_read_fail_with_a_word_and_a_sentence(tmp_path, content, code):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content)
    assert refused.value.code == code
    assert len(str(refused.value)) > 20


def test_a_parquet_column_of_one_long_text_a_million_times_is_refused(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 100_000]))
    content = as_parquet({"a": texts, "label": pa.array(["x", "y"] * 100_000)})
    assert len(content) < 2_000_000
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content)
    assert refused.value.code == "cell_too_large"


def outcome(tmp_path: Path, content: bytes) -> str | int:
    """The code of the refusal, or how many rows were read."""
    try:
        return len(read(tmp_path, content).rows)
    except InvalidInput as error:
        return error.code


def test_flipped_bits_never_break_the_readers(tmp_path):
    generator = np.random.default_rng(2)
    for whole in (as_parquet(), as_jsonl().encode(), as_csv().encode()):
        for position in generator.integers(0, len(whole), 40).tolist():
            content = bytearray(whole)
            content[position] ^= 1 << int(generator.integers(8))
            assert outcome(tmp_path, bytes(content)) not in {"invalid_input", 61}


def test_broken_json_lines_are_told_and_the_others_are_used(tmp_path):
    lines = as_jsonl().splitlines()
    lines[4:4] = ["{broken", "[1, 2]", ""]
    dataset = read(tmp_path, "\n".join(lines))
    found = dataset.report
    assert [bad.line for bad in found.unreadable] == [5, 6]
    assert "instead of an object" in found.unreadable[1].reason
    assert dataset.lines[:6].tolist() == [1, 2, 3, 4, 8, 9]


def test_lines_are_counted_through_quoted_line_breaks_blank_lines_and_broken_ones(tmp_path):
    text = '\na,label\n1,x\n2,"x"\n"3\n",y\n\nbad\n4,y\n"5",x,"more\n"\n6,x\n' + "7,y\n" * 30
    dataset = read(tmp_path, text)
    assert dataset.lines[:6].tolist() == [3, 4, 5, 9, 12, 13]
    assert [(bad.line, bad.reason) for bad in dataset.report.unreadable] == [
        (8, "1 field instead of 2"),
        (10, "3 fields instead of 2"),
    ]


@pytest.mark.parametrize(
    ("encoding", "word", "told_as"),
    [
        ("gb18030", "这是好的评论", "gb18030"),
        ("cp1252", "Müller naïve", "latin-1"),
        ("utf-16", "Müller 这是好的", "utf-16"),
    ],
)
def test_other_encodings_are_read_and_the_report_says_so(tmp_path, encoding, word, told_as):
    text = "name,a,label\n" + "".join(f"{word},{n % 7},{'xy'[n % 2]}\n" + f"plain,{n % 5},x\n" for n in range(40))
    dataset = read(tmp_path, text.encode(encoding))
    assert dataset.report.form["encoding"] == told_as
    assert ("encoding" in {warning.code for warning in dataset.report.warnings}) == (encoding != "utf-16")
    assert word in dataset.report.columns[0].top


def test_a_few_bytes_that_are_not_utf8_are_told_and_the_file_is_still_utf8(tmp_path):
    good = "name,a,label\n" + "".join(f"好的评论{n % 5},{n % 7},{'xy'[n % 2]}\n" for n in range(400))
    dataset = read(tmp_path, good.encode() + b"\xff\xfe,3,x\n")
    assert dataset.report.form["encoding"] == "utf-8"
    assert "encoding" in {warning.code for warning in dataset.report.warnings}
    assert "好的评论1" in dataset.report.columns[0].top
