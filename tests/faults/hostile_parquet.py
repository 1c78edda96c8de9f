"""Hostile Parquet files: footers that lie, pages that unpack to gigabytes, types nobody reads. Knows no service."""

from __future__ import annotations

import io
import struct
from functools import cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from faults.hostile_files import Collection, Hostile, flipped
from faults.hostile_texts import a_pickle

_MAGIC = b"PAR1"


def _file(columns: dict[str, Any], **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **options)
    return target.getvalue()


@cache
def good(rows: int = 60) -> bytes:
    """Columns x and y."""
    return _file({"x": [float(n % 7) for n in range(rows)], "y": [n % 2 for n in range(rows)]}, compression="none")


def _with_footer(footer: bytes, data: bytes = b"") -> bytes:
    return _MAGIC + data + footer + struct.pack("<I", len(footer)) + _MAGIC


def _footer(content: bytes) -> tuple[bytes, bytes]:
    size = struct.unpack("<I", content[-8:-4])[0]
    return content[4 : -8 - size], content[-8 - size : -8]


def _rows_lie() -> bytes:
    """The footer says a billion rows: the count, a varint of 60, is written longer."""
    data, footer = _footer(good())
    # field 3 (num_rows, i64) of FileMetaData follows the schema: 0x16 and zigzag(60) = 0x78 0x01 is not unique enough
    # to be looked for by itself, so that all of that pattern are changed.
    many = b"\x16\x80\xa8\xd6\xb9\x07"
    return _with_footer(footer.replace(b"\x16\x78", many), data)


def parquet() -> list[Hostile]:
    """All of this module."""
    found = Collection("parquet", "dataset", "batch")
    _lies(found)
    _bombs(found)
    _types(found)
    for seed in range(12):
        # The bits of seed 4 are those of numbers: it reads, with other ones.
        harmless = ("dataset", "batch") if seed == 4 else ()
        found.add(f"bits turned over, {seed}", partial(flipped, good(), seed, 1 + seed), harmless=harmless)
    return found.files


def _lies(found: Collection) -> None:
    found.add("a billion rows in the footer", _rows_lie, sample="dataset")
    found.add("thrift lists within lists", lambda: _with_footer(b"\x19" + b"\xf9\xff\xff\xff\x0f" * 20_000))
    found.add("thrift structs 100,000 deep", lambda: _with_footer(b"\x1c" * 100_000), sample="batch")
    found.add("a thrift list of 2^31 schema elements", lambda: _with_footer(b"\x15\x02\x19\xfc\xff\xff\xff\xff\x07"))
    found.add("a footer longer than the file", _MAGIC + b"\0" * 20 + struct.pack("<I", 2**31 - 1) + _MAGIC)
    found.add("a footer of four gigabytes", _MAGIC + b"\0" * 20 + struct.pack("<I", 2**32 - 1) + _MAGIC, sample="batch")
    found.add("a footer of nothing", _with_footer(b""))
    found.add("a footer of zeros", _with_footer(bytes(4096)))
    found.add("only magic words", _MAGIC + _MAGIC)
    found.add("an encrypted footer", lambda: _MAGIC + good()[4:-4] + b"PARE")
    found.add("the first half", lambda: good()[: len(good()) // 2])
    found.add("no last byte", lambda: good()[:-1])
    found.add("a footer without its data", lambda: _with_footer(_footer(good())[1]))
    found.add("data of another place", lambda: _with_footer(_footer(good())[1], b"\xff" * len(_footer(good())[0])))
    found.add("a pickle between magic words", lambda: _with_footer(a_pickle()))
    found.add("an Arrow file", _arrow, sample="batch")


def _arrow() -> bytes:
    target = io.BytesIO()
    table = pa.table({"x": [1.0, 2.0], "y": [0, 1]})
    with pa.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)
    return target.getvalue()


def _bombs(found: Collection) -> None:
    def pages(kind: str) -> bytes:
        return _file({"x": ["a" * 2**20] * 200, "y": [0, 1] * 100}, compression=kind, use_dictionary=False)

    for kind in ("gzip", "zstd", "brotli", "snappy", "lz4"):
        found.add(f"pages of 200 MB in {kind}", partial(pages, kind), harmless=("dataset",))

    def dictionary() -> bytes:
        codes = pa.array([0] * 20_000, pa.int32())
        long = pa.DictionaryArray.from_arrays(codes, pa.array(["a" * 2**20]))
        return _file({"x": long, "y": [0, 1] * 10_000}, use_dictionary=True, compression="zstd")

    found.add("a dictionary that says 20 GB", dictionary)
    found.add("100 million equal numbers", lambda: _file({"x": pa.repeat(1.0, 10**7), "y": pa.repeat(1, 10**7)}))
    found.add("a cell of 10 MB", lambda: _file({"x": ["a" * 10**7] * 2, "y": [0, 1]}))
    found.add("20,000 columns", lambda: _file({f"c{n}": [n] for n in range(20_000)}, write_statistics=False))
    many = {"x": [1.0] * 5000, "y": [0] * 5000}
    found.add("5,000 row groups", lambda: _file(many, row_group_size=1), harmless=("batch",))


def _types(found: Collection) -> None:
    nested: Any = pa.array([1.0, 2.0])
    deep = pa.float64()
    for _ in range(60):
        deep = pa.list_(deep)

    def lists() -> bytes:
        value: Any = 1.0
        for _ in range(60):
            value = [value]
        return _file({"x": pa.array([value, value], deep), "y": [0, 1]})

    found.add("lists 60 deep", lists)
    found.add("only structs", lambda: _file({"x": [{"a": {"b": 1}}] * 20, "y": [{"c": 1}] * 20}))
    found.add("only maps", lambda: _file({"x": pa.array([[("k", 1)]] * 20, pa.map_(pa.string(), pa.int64()))}))
    found.add("only binary", lambda: _file({"x": [b"\xff\xfe"] * 20, "y": [b"\0"] * 20}))
    found.add("columns without a name", lambda: _file({"": nested}))
    found.add("no columns", lambda: _file({}))
    found.add("no rows", lambda: _file({"x": pa.array([], pa.float64()), "y": pa.array([], pa.int64())}))
    found.add("only nulls", lambda: _file({"x": pa.nulls(40), "y": pa.nulls(40)}))
    found.add(
        "infinities and NaN only", lambda: _file({"x": [float("inf"), float("nan")] * 20, "y": [float("nan")] * 40})
    )
