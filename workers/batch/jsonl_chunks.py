"""JSONL: cut into chunks, and a chunk's blocks of lines. Knows JSON, not what members are for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from coatcheck.batches import ChunkPlace, Plan
from coatcheck.signature import Input
from workers.batch.block import BadRow, Places, block_rows, plan_width
from workers.batch.text_chunks import TextChunk, cut_text, read_bytes, records_of

_OBJECT = msgspec.json.Decoder(dict[str, Any])


def cut(source: BinaryIO, plan: Plan) -> Iterator[ChunkPlace]:
    """The file's chunks."""
    return cut_text(source, plan, None)


def read(source: BinaryIO, place: ChunkPlace, plan: Plan, inputs: Sequence[Input]) -> Iterator[JsonlBlock | None]:
    """A chunk's rows in blocks; None after the steps before the first."""
    data = read_bytes(source, place)
    yield None
    chunk = records_of(data, place, plan, None)
    del data
    yield None
    # Many lines at once are no quicker, but for a Parquet file's row groups.
    size = plan.group_rows
    if plan.output_format == "parquet":
        size = block_rows(max(plan_width(plan), len(inputs)), plan.group_rows)
    for start in range(0, place.rows, size):
        yield JsonlBlock(chunk, start, min(start + size, place.rows), plan)


class JsonlBlock:
    """Some lines of a JSONL file."""

    def __init__(self, chunk: TextChunk, start: int, stop: int, plan: Plan) -> None:
        self._chunk = chunk
        self._start = start
        self._plan = plan
        self.first_row = chunk.place.first_row + start
        self.rows = stop - start

    def raw(self, number: int) -> bytes:
        """The line without its break."""
        return self._chunk.record(self._start + number)

    def line(self, number: int) -> int | None:
        """Its number in the file."""
        return self._chunk.line(self._start + number)

    def checked(self, number: int) -> bytes:
        """The line. Raises BadRow: too large, not text."""
        bad = self._chunk.bad.get(self._start + number)
        if bad is not None:
            raise bad
        return self.raw(number)

    def values(self, number: int) -> dict[str, Any]:
        """The members that are inputs. Raises BadRow: it is not an object in JSON."""
        members = self.members(number)
        return {name: members[column] for name, column in self._plan.inputs.items() if column in members}

    def members(self, number: int) -> dict[str, Any]:
        """All members. Raises BadRow."""
        line = self.checked(number)
        try:
            return _OBJECT.decode(line)
        except msgspec.ValidationError as error:
            if line.lstrip().startswith(b"{"):
                raise BadRow("not_json", f"the line is not JSON: {error}") from None
            raise BadRow("not_an_object", "the line is not a JSON object; expected one object a line") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRow("not_json", f"the line is not JSON: {error}") from None

    def pixels(self, number: int) -> list[Any]:
        """None: pixels in columns are of tables."""
        del number
        return []

    def columns(self, names: Sequence[str]) -> None:
        """A JSON line has no columns."""
        del names

    def records(self, numbers: Places) -> list[bytes]:
        """These lines without their breaks."""
        return [self.raw(number) for number in numbers.tolist()]

    def kept(self, names: Sequence[str], numbers: Places) -> pa.Table:
        """The named members of these lines as text: JSON, but strings as they are and null as null."""
        rows = [self.members(number) for number in numbers.tolist()]
        return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
