"""Parquet: row ranges as chunks, and a chunk's blocks. Knows Arrow's types, not what columns mean.

Written files often have one row group of a million rows, and Arrow reads a row group from its beginning: so a
reader stays open between chunks and goes on from where it is. What another worker scored is passed over, which costs
its decoding. Others have thousands of small ones: a chunk has as many of those as fit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coatcheck.batches import ChunkPlace, FileForm, Plan
from coatcheck.errors import InvalidInput
from coatcheck.signature import BooleanInput, CategoryInput, DateInput, Input, NumberInput, TextInput
from workers.batch.block import Mask, Places, block_rows, plan_width
from workers.batch.parquet_claims import MOST_ELEMENTS, check_claims
from workers.batch.parquet_footer import DamagedFooter
from workers.data.csv_text import MAX_COLUMNS

#: Bytes of each column that are read ahead.
_BUFFER = 64 * 1024
#: Bytes of a block that its row group says it has, and that its texts may unpack to.
_BLOCK_BYTES = 8 * 1024**2
_UNPACKED_BYTES = 64 * 1024**2
#: A row group up to so many times a chunk's rows is one chunk.
_STRETCH = 2
#: A chunk of several row groups has so many columns of theirs at most, each is begun by itself; and what a block joins
#: of them has so many bytes: what a footer says of that need not be so.
_COLUMNS_A_CHUNK = 4096
_JOINED_BYTES = 4 * _UNPACKED_BYTES
#: Columns of a row group that are begun in one step.
_COLUMNS_A_STEP = 2
#: Blocks passed over in one step.
_PASSED_A_STEP = 2


def inspect(source: BinaryIO, size: int) -> FileForm:
    """The footer of a Parquet file, its claims checked against the file.

    Raises:
        InvalidInput: it does not read, has too many columns, or two of one name.
    """
    try:
        rows = check_claims(source, size)
        names = [str(name) for name in _open(source).schema_arrow.names]
    except Exception as error:  # noqa: BLE001 - a stranger's bytes; none of the readers' texts is for users
        why = str(error) if isinstance(error, DamagedFooter) else "it is damaged or cut off"
        raise InvalidInput(f"the file does not read as Parquet: {why}", field="file") from None
    if len(names) > MAX_COLUMNS:
        raise InvalidInput(f"the file has {len(names)} columns; at most {MAX_COLUMNS} are read", field="file")
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise InvalidInput(f"two columns are named {repeated!r}; rename one", field="file")
    return FileForm(format="parquet", size=size, columns=tuple(names), rows=rows)


def _open(source: BinaryIO, packed: Sequence[str] = ()) -> pq.ParquetFile:
    """The file; the columns `packed` are read as dictionaries."""
    return pq.ParquetFile(
        source,
        buffer_size=_BUFFER,
        pre_buffer=False,
        memory_map=False,
        read_dictionary=list(packed),
        thrift_container_size_limit=MOST_ELEMENTS,
    )


def schema(source: BinaryIO) -> pa.Schema:
    """The file's columns as Arrow has them."""
    return _open(source).schema_arrow


def cut(source: BinaryIO, plan: Plan) -> Iterator[ChunkPlace]:
    """The file's chunks: whole blocks of one row group, or as many whole row groups as fit."""
    claims = _open(source).metadata
    most_groups = max(1, _COLUMNS_A_CHUNK // max(1, _leaves(claims, plan)))
    first, number = 1, 0
    while number < claims.num_row_groups:
        group = claims.row_group(number)
        block = _block_rows(plan, _row_bytes(group))
        wanted = min(plan.chunk_rows, int(plan.chunk_bytes / max(1.0, _row_bytes(group))))
        rows = max(1, wanted // block) * block
        together, held = _groups_that_fit(
            claims, range(number, min(number + most_groups, claims.num_row_groups)), rows, plan
        )
        if group.num_rows <= _STRETCH * rows:  # no other worker has to pass over its rows
            rows = max(rows, held)
        for offset in range(0, held, rows):
            count = min(rows, held - offset)
            yield ChunkPlace(first_row=first, rows=count, row_group=number, offset=offset)
            first += count
        number += together


def _groups_that_fit(claims: pq.FileMetaData, numbers: range, rows: int, plan: Plan) -> tuple[int, int]:
    """How many of these row groups make one chunk of `rows` rows at most, at least the first, and their rows."""
    together, held, size = 0, 0, 0
    for group in map(claims.row_group, numbers):
        held, size, together = held + group.num_rows, size + group.total_byte_size, together + 1
        if together > 1 and (held > rows or size > plan.chunk_bytes):
            return together - 1, held - group.num_rows
    return together, held


def _columns(plan: Plan) -> list[str]:
    """Those that are read."""
    wanted = {*plan.inputs.values(), *plan.pixels, *(plan.joined if plan.join else ())}
    return [name for name in plan.form.columns if name in wanted]


def _leaves(claims: pq.FileMetaData, plan: Plan) -> int:
    """Columns as Parquet counts them: one inside another is one more (of another that is not read too)."""
    wanted = set(_columns(plan))
    paths = (claims.schema.column(number).path for number in range(claims.num_columns))
    return sum(path in wanted or "." in path for path in paths)


def _row_bytes(group: pq.RowGroupMetaData) -> float:
    return float(group.total_byte_size / max(1, group.num_rows))


def _widest_row(claims: pq.FileMetaData, place: ChunkPlace) -> float:
    """Bytes of a row in that row group of the chunk where they are longest."""
    number, rows, widest = place.row_group, place.offset + place.rows, 0.0
    while rows > 0 and number < claims.num_row_groups:
        group = claims.row_group(number)
        widest, rows, number = max(widest, _row_bytes(group)), rows - group.num_rows, number + 1
    return widest


def _block_rows(plan: Plan, row_bytes: float) -> int:
    """Rows of a block: fewer where they are long."""
    rows = block_rows(plan_width(plan), plan.group_rows, text=False)
    return max(1, min(rows, int(_BLOCK_BYTES / max(1.0, row_bytes))) // plan.group_rows) * plan.group_rows


class DamagedFileError(Exception):
    """The file's bytes do not read here: scoring the chunk again would not help."""


class ParquetReader:
    """An open file and how far it was read."""

    def __init__(self, source: BinaryIO, plan: Plan, inputs: Sequence[Input]) -> None:
        self._plan = plan
        self._inputs = {item.name: item for item in inputs}
        self._columns = _columns(plan)
        told = schema(source)
        # A dictionary can repeat one long text a million times: it is unpacked only when its size is known.
        self._texts = [name for name in self._columns if _is_text(told.field(name).type)]
        self._packed = {name for name in self._texts if pa.types.is_dictionary(told.field(name).type)}
        self._file = _open(source, self._texts)
        self._claims = self._file.metadata
        #: For some columns each, and the first batch of each where it is read already.
        self._batches: list[Iterator[pa.RecordBatch]] = []
        self._first: list[pa.RecordBatch | None] = []
        self._row_group = -1
        self._next = 0
        self._pending: pa.RecordBatch | None = None

    def read(self, place: ChunkPlace) -> Iterator[ParquetBlock | None]:
        """A chunk's blocks; None after a step that gave none."""
        size = _block_rows(self._plan, _widest_row(self._claims, place))
        try:
            yield from self._go_to(place, size)
            for first in range(0, place.rows, size):
                batch = self._unpacked((yield from self._gather(min(size, place.rows - first), size)))
                yield None  # to decode a block takes as long as to look at its numbers
                yield ParquetBlock(batch, place.first_row + first, self._plan, self._inputs)
        except BaseException as error:
            self._row_group = -1  # where it stands is not known
            if isinstance(error, (pa.ArrowException, ValueError)) or (isinstance(error, OSError) and not error.errno):
                raise DamagedFileError(str(error)) from error  # Arrow's own OSError has no number
            raise

    def _unpacked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Texts as texts, where the file's writer had no dictionary. Raises ValueError: they are too long."""
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in self._texts:
            if pa.types.is_dictionary(columns[name].type):
                _check_unpacked(name, columns[name])
                columns[name] = columns[name] if name in self._packed else _plain(columns[name])
        return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def _go_to(self, place: ChunkPlace, size: int) -> Iterator[None]:
        if self._row_group != place.row_group or self._next > place.offset:
            yield from self._open_row_group(place.row_group, size)
        passed = 0
        while self._next < place.offset:
            self._take(min(size, place.offset - self._next))
            passed += 1
            if passed % _PASSED_A_STEP == 0:
                yield None

    def _gather(self, rows: int, size: int) -> Generator[None, None, pa.RecordBatch]:
        """The next rows, of this row group and those after it. Raises ValueError: they are more than fit in memory."""
        parts: list[pa.RecordBatch] = []
        missing, held = rows, 0
        while missing:
            left = self._claims.row_group(self._row_group).num_rows - self._next
            if left:
                parts.append(self._take(min(missing, left)))
                missing -= parts[-1].num_rows
                held += parts[-1].nbytes
                if len(parts) > 1 and held > _JOINED_BYTES:
                    raise ValueError(f"{len(parts)} row groups unpack to more than {_JOINED_BYTES} bytes")
            else:
                yield from self._open_row_group(self._row_group + 1, size)
        return _joined(parts)

    def _open_row_group(self, number: int, size: int) -> Iterator[None]:
        """Begin a row group some columns at a time: before the first row of a column its dictionary is decoded."""
        self._row_group, self._next, self._pending = number, 0, None
        self._batches, self._first = [], []
        for start in range(0, max(1, len(self._columns)), _COLUMNS_A_STEP):
            batches = self._file.iter_batches(
                batch_size=size,
                row_groups=[number],
                columns=self._columns[start : start + _COLUMNS_A_STEP],
                use_threads=False,
            )
            self._batches.append(batches)
            self._first.append(next(batches, None))
            yield None

    def _batch(self) -> pa.RecordBatch | None:
        """The next rows of all columns."""
        found = self._first or [next(batches, None) for batches in self._batches]
        self._first = []
        parts = [part for part in found if part is not None]
        if len(parts) < len(found) or len({part.num_rows for part in parts}) != 1:
            return None
        if len(parts) == 1:
            return parts[0]
        names = [name for part in parts for name in part.schema.names]
        return pa.RecordBatch.from_arrays([column for part in parts for column in part.columns], names)

    def _take(self, rows: int) -> pa.RecordBatch:
        """The next rows. Raises ValueError: there are fewer."""
        parts: list[pa.RecordBatch] = []
        missing = rows
        while missing:
            batch = self._pending if self._pending is not None else self._batch()
            if batch is None:
                raise ValueError(f"row group {self._row_group} has fewer rows than its footer says")
            self._pending = batch.slice(missing) if batch.num_rows > missing else None
            parts.append(batch.slice(0, missing))
            missing -= parts[-1].num_rows
        self._next += rows
        return _joined(parts)


def _joined(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


class ParquetBlock:
    """Some rows of a Parquet file."""

    def __init__(self, batch: pa.RecordBatch, first_row: int, plan: Plan, inputs: dict[str, Input]) -> None:
        self._batch = batch
        self._plan = plan
        self._inputs = inputs
        self.first_row = first_row
        self.rows = batch.num_rows

    def columns(self, names: Sequence[str]) -> tuple[list[pa.Array], Mask]:
        """Columns as they are, dictionaries unpacked."""
        found = [_plain(self._batch.column(self._plan.inputs.get(name, name))) for name in names]
        return found, np.zeros(self.rows, np.bool_)

    def values(self, number: int) -> dict[str, Any]:
        """Inputs by name."""
        return {
            name: _value(self._inputs[name], self._batch.column(column)[number].as_py())
            for name, column in self._plan.inputs.items()
        }

    def pixels(self, number: int) -> list[Any]:
        """The row's pixel columns, each a number, None, or what stands there as text."""
        return [_value(NumberInput(name=""), self._batch.column(name)[number].as_py()) for name in self._plan.pixels]

    def kept(self, names: Sequence[str], numbers: Places) -> pa.Table:
        """The named columns of these rows as they are."""
        table = pa.Table.from_batches([self._batch.select(list(names))])
        return table if len(numbers) == self.rows else table.take(pa.array(numbers))

    def raw(self, number: int) -> bytes:
        """The inputs' cells as JSON."""
        names = [*self._plan.inputs.values(), *self._plan.pixels]
        return msgspec.json.encode({name: str(self._batch.column(name)[number].as_py())[:1024] for name in names})

    def line(self, number: int) -> int | None:
        """None: Parquet has no lines."""
        del number
        return None


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):  # as the file's writer had it
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _check_unpacked(name: str, column: pa.DictionaryArray) -> None:
    lengths = np.append(np.asarray(pc.fill_null(pc.binary_length(column.dictionary), 0), np.int64), 0)
    codes = np.asarray(pc.fill_null(column.indices, len(lengths) - 1), np.int64)
    if int(lengths[codes].sum()) > _UNPACKED_BYTES:
        raise ValueError(f"column {name} unpacks to more than {_UNPACKED_BYTES} bytes in {len(column)} rows")


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _value(item: Input, value: Any) -> Any:
    """A cell as a client would send it in JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None:
        return None
    if isinstance(item, (CategoryInput, TextInput, DateInput)) and not isinstance(value, str):
        return _text(value)
    if isinstance(item, BooleanInput) and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(value, (int, float, str, bool, list)):
        return value
    return _text(value) if not isinstance(item, NumberInput) else _number(value)


def _number(value: Any) -> Any:
    try:
        return float(value)  # a decimal
    except (TypeError, ValueError):
        return str(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
