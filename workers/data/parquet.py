"""A Parquet file as a table. Knows Arrow's types and what its footer may lie about, not what columns mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.data.csv_text import MAX_COLUMNS, MAX_LINE_BYTES
from workers.data.jsonl import cell_text
from workers.data.refusals import refused
from workers.data.report import Report
from workers.data.table import NULL_WORDS, Batch, Broken, without_blank_rows

_BATCH_CELLS = 1_000_000
_BATCH_ROWS = 32_768
#: Text of one column in one batch, unpacked.
_BATCH_TEXT = 256 * 1024**2
_MAX_CELLS = 4_000_000_000
_FOOTER_BYTES = 64 * 1024**2


class ParquetTable:
    """Columns of numbers, text, dates, truths and lists; whatever else there is comes as nulls."""

    format = "parquet"

    def __init__(self, path: Path) -> None:
        """Reads the footer.

        Raises:
            InvalidInput: with code not_parquet, too_large, no_usable_rows or duplicate_column.
        """
        self._path = path
        self._check_footer()
        try:
            schema = self._open().schema_arrow
        except (pa.ArrowException, OSError, MemoryError, ValueError, KeyError) as exc:
            raise _damaged(exc) from None
        names = [str(name) for name in schema.names]
        if not names:
            raise refused("no_usable_rows", "the dataset has no columns")
        repeated = next((name for name, count in Counter(names).items() if name and count > 1), None)
        if repeated is not None:
            raise refused("duplicate_column", f"two columns are named {repeated!r}; rename one")
        self.names = tuple(names)
        self.left_out = {
            name: f"it holds {kind}, which no recipe reads"
            for name, kind in zip(names, schema.types, strict=True)
            if not _readable(kind)
        }

    def _check_footer(self) -> None:
        """The claims of the footer, before anything is allocated for them."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(max(0, size - 8))
            tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length + 12 > size or length > _FOOTER_BYTES:
            raise refused("not_parquet", "the dataset does not read as Parquet: it is damaged or cut off")
        try:
            claims = pq.read_metadata(self._path)
        except (pa.ArrowException, OSError, MemoryError, ValueError) as exc:
            raise _damaged(exc) from None
        if claims.num_columns > MAX_COLUMNS or claims.num_columns * claims.num_rows > _MAX_CELLS:
            raise refused(
                "too_large",
                f"the dataset has {claims.num_rows} rows of {claims.num_columns} columns; at most "
                f"{MAX_COLUMNS} columns and {_MAX_CELLS} cells are read",
            )

    def _open(self) -> pq.ParquetFile:
        schema = pq.read_schema(self._path)
        texts = [field.name for field in schema if _is_text(field.type)]
        return pq.ParquetFile(self._path, read_dictionary=texts, pre_buffer=False, memory_map=False)

    def describe(self, report: Report) -> None:
        """Nothing: a Parquet file says itself how it is written."""

    def batches(self, broken: Broken) -> Iterator[Batch]:  # noqa: ARG002 - Parquet has no broken lines
        """All rows.

        Raises:
            InvalidInput: with code not_parquet or cell_too_large.
        """
        rows = max(1, min(_BATCH_ROWS, _BATCH_CELLS // max(1, len(self.names))))
        line = 1
        try:
            file = self._open()
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                cells = [
                    _text(name, column, left_out=name in self.left_out)
                    for name, column in zip(self.names, batch.columns, strict=True)
                ]
                places = [str(place) for place in range(len(cells))]
                yield without_blank_rows(
                    pa.RecordBatch.from_arrays(cells, places), np.arange(line, line + batch.num_rows, dtype=np.int64)
                )
                line += batch.num_rows
        except (pa.ArrowException, OSError, MemoryError) as exc:
            raise _damaged(exc) from None
        if line - 1 != file.metadata.num_rows:
            raise refused(
                "not_parquet",
                f"the dataset is damaged: its footer says {file.metadata.num_rows} rows, its pages have {line - 1}",
            )


def _damaged(error: BaseException) -> Exception:
    what = "it needs more memory than it should" if isinstance(error, MemoryError) else "it is damaged or cut off"
    return refused("not_parquet", f"the dataset does not read as Parquet: {what}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _readable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _readable(kind.value_type)
    if _is_list(kind):
        return _readable(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null,
             pa.types.is_date, pa.types.is_timestamp, _is_text)  # fmt: skip
    return any(test(kind) for test in tests)


def _text(name: str, column: pa.Array, *, left_out: bool) -> pa.Array:
    """A column as text cells."""
    if left_out:
        return pa.nulls(len(column), pa.string())
    if pa.types.is_dictionary(column.type):
        _check_unpacked(name, column)
        column = column.dictionary_decode()
    kind = column.type
    if _is_list(kind):
        return pa.array([cell_text(_plain(value)) for value in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind):  # to the second and in UTC, as dates are read
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
        column = pc.strftime(column, format="%Y-%m-%dT%H:%M:%S") if not kind.tz else _utc(column)
        return pc.if_else(pc.ends_with(column, "T00:00:00.000000"), pc.utf8_slice_codeunits(column, 0, 10), column)
    text = column.cast(pa.string())
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), text, pa.scalar(None, pa.string()))
    if _is_text(kind):
        known = pc.is_in(text, value_set=pa.array(NULL_WORDS))
        return pc.if_else(known, pa.scalar(None, pa.string()), text)
    return text


def _utc(column: pa.Array) -> pa.Array:
    return pc.strftime(column.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")), format="%Y-%m-%dT%H:%M:%S")


def _plain(value: Any) -> Any:
    """A list whose numbers are JSON's: no NaN, no decimals or dates."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (int, float, bool, str)) or value is None else str(value)


def _check_unpacked(name: str, column: pa.Array) -> None:
    """A dictionary can repeat one long text a million times; what that unpacks to is known beforehand."""
    if not _is_text(column.type.value_type):
        return
    lengths = np.append(np.asarray(pc.fill_null(pc.binary_length(column.dictionary), 0), np.int64), 0)
    codes = np.asarray(pc.fill_null(column.indices, len(lengths) - 1), np.int64)
    if lengths.max() > MAX_LINE_BYTES or int(lengths[codes].sum()) > _BATCH_TEXT:
        raise refused(
            "cell_too_large",
            f"column {name!r} holds texts longer than {MAX_LINE_BYTES // 1024**2} MiB, or too many of that kind",
        )
