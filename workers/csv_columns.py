"""A CSV file -> columns of numbers, booleans or words. Knows text and types, not what is trained on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from coatcheck.errors import InvalidInput

#: Cells read into memory at most: 8 bytes each while read.
MAX_CELLS = 1_000_000_000
MAX_COLUMNS = 20_000
#: A column of words of which this share are numbers is a column of numbers with a few bad values.
MOSTLY_NUMBERS = 0.9

_NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?", "#N/A", "<NA>", "-nan", "-NaN"]
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Values as float64 (word codes, 0/1 for booleans); `missing` marks those that are none or not finite."""

    values: npt.NDArray[np.float64]
    missing: npt.NDArray[np.bool_]
    words: tuple[str, ...] | None = None
    boolean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The named columns of a file in its order."""

    names: tuple[str, ...]
    columns: dict[str, Column]
    rows: int
    #: Lines left out because they have another number of fields than the header.
    bad_lines: int
    #: Column -> why it was left out.
    ignored: dict[str, str]

    def __getitem__(self, name: str) -> Column:
        """A column by its name."""
        return self.columns[name]


def _refused(code: str, message: str) -> InvalidInput:
    error = InvalidInput(message, field="input.dataset")
    error.code = code
    return error


def read_csv(path: Path) -> Columns:
    """Read a CSV file with a header line; the delimiter is one of comma, semicolon, tab and bar.

    Raises:
        InvalidInput: with code not_a_csv, duplicate_column or too_large.
    """
    head = _head(path)
    delimiter = max(_DELIMITERS, key=head.splitlines()[0].count)
    bad = [0]

    def skip(_: Any) -> str:
        bad[0] += 1
        return "skip"

    table = _read_all(path, delimiter, skip, bad)
    if bad[0] > table.num_rows:
        raise _refused(
            "not_a_csv",
            f"{bad[0]} of {bad[0] + table.num_rows} lines have another number of fields than the header line "
            f"({table.num_columns}); is it a CSV file?",
        )
    return _columns(table, bad[0])


def _read_all(path: Path, delimiter: str, skip: Callable[[Any], str], bad: list[int]) -> pa.Table:
    """Read with types guessed from the first block; a column that breaks its guess is read again as words."""
    as_words: set[str] = set()
    while True:
        bad[0] = 0
        try:
            return _read(path, delimiter, skip, as_words)
        except pa.ArrowInvalid as exc:
            match = re.search(r"In CSV column #(\d+)", str(exc))
            names = _names(path, delimiter) if match else []
            if not match or int(match[1]) >= len(names) or names[int(match[1])] in as_words:
                raise _refused("not_a_csv", f"the dataset does not read as CSV: {_plain(exc)}") from None
            as_words.add(names[int(match[1])])


def _head(path: Path) -> str:
    """The first lines as text."""
    with path.open("rb") as file:
        data = file.read(65536)
    if b"\0" in data or data.startswith((b"PK\x03\x04", b"%PDF", b"\x89PNG", b"\x1f\x8b", b"PAR1")):
        raise _refused("not_a_csv", "the dataset is a binary file; expected a CSV text file with a header line")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        if exc.start < len(data) - 4:
            raise _refused("not_a_csv", "the dataset is not UTF-8 text; save it as CSV UTF-8") from None
        text = data[: exc.start].decode("utf-8-sig")
    if not text.strip():
        raise _refused("empty_file", "the dataset file holds only blanks; upload a file with rows")
    return text.lstrip("\r\n")


def _names(path: Path, delimiter: str) -> list[str]:
    with csv.open_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter)) as reader:
        return [str(name) for name in reader.schema.names]


def _plain(error: Exception) -> str:
    """Arrow's message without its module words."""
    text = str(error).splitlines()[0]
    return re.sub(r"^CSV (parse|conversion) error: ", "", text)[:200]


def _read(path: Path, delimiter: str, skip: Callable[[Any], str], as_words: set[str]) -> pa.Table:
    options = csv.ConvertOptions(
        null_values=_NULLS,
        strings_can_be_null=True,
        column_types=dict.fromkeys(as_words, pa.string()),
        timestamp_parsers=["never"],
    )
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=False, invalid_row_handler=skip)
    batches = []
    cells = 0
    with csv.open_csv(path, parse_options=parse, convert_options=options) as reader:
        names = reader.schema.names
        if len(names) > MAX_COLUMNS:
            raise _refused("too_large", f"the dataset has {len(names)} columns; at most {MAX_COLUMNS} are read")
        repeated = next((name for name in names if name and names.count(name) > 1), None)
        if repeated is not None:
            raise _refused("duplicate_column", f"two columns are named {repeated!r}; rename one")
        for batch in reader:
            cells += batch.num_rows * batch.num_columns
            if cells > MAX_CELLS:
                raise _refused("too_large", f"the dataset has more than {MAX_CELLS} cells; train on a part of it")
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)


def _columns(table: pa.Table, bad_lines: int) -> Columns:
    columns: dict[str, Column] = {}
    ignored: dict[str, str] = {}
    for position, name in enumerate(table.column_names):
        if not name:
            ignored[f"column {position + 1}"] = "no name in the header line"
        else:
            columns[name] = _column(table.column(position))
    return Columns(names=tuple(columns), columns=columns, rows=table.num_rows, bad_lines=bad_lines, ignored=ignored)


def _column(values: pa.ChunkedArray) -> Column:
    if pa.types.is_boolean(values.type):
        return _numbers(values, boolean=True)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type):
        return _numbers(values)
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    numeric = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    present = len(text) - text.null_count
    if present and pc.sum(numeric).as_py() >= MOSTLY_NUMBERS * present:
        return _numbers(pc.if_else(numeric, text, None))
    encoded = text.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # a table without rows
        encoded = pa.array([], pa.string()).dictionary_encode()
    codes = encoded.indices.cast(pa.float64())
    return Column(
        values=np.asarray(codes.fill_null(0.0)),
        missing=np.asarray(pc.is_null(codes)),
        words=tuple(encoded.dictionary.to_pylist()),
    )


def _numbers(values: pa.ChunkedArray, *, boolean: bool = False) -> Column:
    if boolean:
        values = values.cast(pa.int8())
    floats = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    return Column(values=floats, missing=~np.isfinite(floats), boolean=boolean)
