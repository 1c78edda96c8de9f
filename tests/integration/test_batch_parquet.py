"""Parquet parts become one file without being encoded again; footers that claim what their file does not hold."""

from __future__ import annotations

import datetime as dt
import io
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring import dense, score

from coatcheck.batches import FileForm, Part, Plan
from coatcheck.errors import InvalidInput
from workers.batch import block as block_module
from workers.batch import parquet_chunks
from workers.batch.assemble import output_stream
from workers.batch.parquet_chunks import DamagedFileError, cut, inspect
from workers.batch.parquet_footer import GROUP_ROWS, NUM_ROWS, NUM_VALUES, footer_bytes
from workers.batch.thrift_compact import Reader, write_struct
from workers.batch.thrift_patch import Patcher

ROWS = 2000


def table(start: int, rows: int = ROWS) -> pa.Table:
    """Columns of many types, nulls among them."""
    numbers = np.arange(start, start + rows)
    return pa.table(
        {
            "float": pa.array(numbers / 7, mask=numbers % 5 == 0),
            "small": pa.array(numbers % 100, pa.int8()),
            "text": pa.array([None if number % 3 == 0 else f"é{number % 50}" for number in numbers.tolist()]),
            "words": pa.array([f"w{number}" for number in numbers.tolist()]).dictionary_encode(),
            "truth": pa.array([None, True, False] * (rows // 3) + [True] * (rows % 3)),
            "when": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * rows),
            "list": pa.array([[1, 2], None, [], [None, 3]] * (rows // 4)),
            "struct": pa.array([{"a": 1, "b": "x"}, None] * (rows // 2)),
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "compression": "zstd"},
        {"row_group_size": 700, "write_page_index": True, "data_page_size": 2000},
        {"version": "1.0", "compression": "none", "write_statistics": False},
        {"data_page_version": "2.0", "write_page_checksum": True, "store_decimal_as_integer": True},
    ],
    ids=["plain", "zstd", "many pages", "old", "pages 2"],
)
def test_parts_side_by_side_read_as_their_rows_in_order(options):
    tables = [table(start) for start in (0, ROWS, 2 * ROWS)]
    files: dict[str, bytes] = {}
    parts = []
    for number, part in enumerate(tables):
        out = io.BytesIO()
        pq.write_table(part, out, **options)
        files[f"{number}"] = out.getvalue()
        parts.append(Part(name=f"{number}", size=len(out.getvalue())))
    parts.insert(1, Part())  # a chunk of which no row succeeded
    form = FileForm(format="parquet", size=0)
    plan = Plan(batch="b", version="v", source="s", form=form, output_format="parquet")
    joined = b"".join(output_stream(parts, plan, lambda name: io.BytesIO(files[name])))
    assert inspect(io.BytesIO(joined), len(joined)).rows == 3 * ROWS
    file = pq.ParquetFile(io.BytesIO(joined), page_checksum_verification=True)
    # to_pylist: what lies under a null may differ, and does not matter
    assert file.read().to_pylist() == pa.concat_tables(tables).to_pylist()
    last = file.metadata.num_row_groups - 1
    assert file.read_row_group(last).equals(tables[-1].slice(ROWS - file.metadata.row_group(last).num_rows))
    if options.get("write_statistics", True):
        assert file.metadata.row_group(last).column(1).statistics.max == 99
    assert file.metadata.row_group(last).column(0).file_path == ""


def written(rows: int = ROWS) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"x": np.arange(rows) / 3, "same": ["a"] * rows}), out)
    return out.getvalue()


def with_footer(content: bytes, change) -> bytes:
    footer, start = footer_bytes(io.BytesIO(content), len(content))
    fields = Reader(footer).struct()
    change(fields)
    changed = write_struct(fields)
    return content[:start] + changed + struct.pack("<I", len(changed)) + b"PAR1"


def test_footer_read_into_fields_is_written_back_as_it_was():
    content = written()
    assert with_footer(content, lambda fields: None) == content
    footer, _ = footer_bytes(io.BytesIO(content), len(content))
    patcher = Patcher(footer)
    patcher.struct({})
    assert patcher.take() == footer


def claim_rows(fields) -> None:
    """A billion rows, in every place that counts them."""
    fields.set(NUM_ROWS, 10**9)
    (group,) = fields.get(4).values
    group.set(GROUP_ROWS, 10**9)
    for column in group.get(1).values:
        column.get(3).set(NUM_VALUES, 10**9)


def claim_more_rows(fields) -> None:
    fields.set(NUM_ROWS, ROWS + 1)


def claim_far_pages(fields) -> None:
    fields.get(4).values[0].get(1).values[0].get(3).set(9, 10**12)


def claim_negative_rows(fields) -> None:
    fields.get(4).values[0].set(GROUP_ROWS, -5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (claim_rows, "claims 1000000000 rows, its pages hold 2000"),
        (claim_more_rows, "its footer claims 2001 rows, its row groups 2000"),
        (claim_far_pages, "claims pages outside the file"),
        (claim_negative_rows, "claims -5 rows"),
    ],
)
def test_claims_that_do_not_hold_are_refused_by_what_they_claim(change, told):
    content = with_footer(written(), change)
    with pytest.raises(InvalidInput, match=told):
        inspect(io.BytesIO(content), len(content))


def test_row_groups_that_share_their_pages_are_refused():
    content = written()

    def repeat(fields) -> None:
        groups = fields.get(4).values
        groups += groups * 50
        fields.set(NUM_ROWS, 51 * ROWS)

    shared = with_footer(content, repeat)
    with pytest.raises(InvalidInput, match="more bytes than the file has"):
        inspect(io.BytesIO(shared), len(shared))


@pytest.mark.parametrize("empty", [b"\x19\xfc\xff\xff\xff\x07", b"\x49\xfc\xff\xff\x7f"])
def test_footer_of_empty_structures_takes_neither_time_nor_memory(empty):
    footer = empty + bytes(2**21)
    content = b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="damaged"):
        inspect(io.BytesIO(content), len(content))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(content)


def test_rows_that_take_no_bytes_are_few():
    out = io.BytesIO()
    pq.write_table(pa.table({"x0": pa.nulls(4_000_000, pa.float64())}), out, row_group_size=4_000_000)
    content = out.getvalue()
    assert len(content) < 1_000_000
    with pytest.raises(InvalidInput, match="claims 4000000 rows; a file of"):
        inspect(io.BytesIO(content), len(content))


def test_damaged_footers_are_refused_and_never_end_the_process():
    content = written()
    start = footer_bytes(io.BytesIO(content), len(content))[1]
    chance = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        broken = bytearray(content)
        for place in chance.integers(start, len(content) - 8, 4).tolist():
            broken[place] = int(chance.integers(0, 256))
        try:
            inspect(io.BytesIO(bytes(broken)), len(broken))
        except InvalidInput:
            refused += 1
    assert refused > 100
    for end in (0, 4, 11, 12, len(content) // 2, len(content) - 1):
        with pytest.raises(InvalidInput):
            inspect(io.BytesIO(content[:end]), end)


@pytest.mark.parametrize("column", ["note", "x0"])
def test_column_of_dictionaries_that_unpacks_to_gigabytes_is_refused_before_it_does(column):
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4096, np.int32)), pa.array(["x" * 2**20]))
    out = io.BytesIO()
    pq.write_table(pa.table({"x0": np.arange(4096.0)} | {column: long}), out)
    with pytest.raises(DamagedFileError, match=f"column {column} unpacks to more than"):
        score(dense(1, 2), out.getvalue())


def test_column_of_dictionaries_stays_one():
    words = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1], pa.int32()), pa.array(["no", "yes"]))
    out = io.BytesIO()
    pq.write_table(pa.table({"x0": np.arange(4.0), "note": words}), out)
    kept = pq.read_table(io.BytesIO(score(dense(1, 2), out.getvalue()).output)).column("note")
    assert pa.types.is_dictionary(kept.type)
    assert kept.to_pylist() == ["yes", "no", None, "yes"]


def test_dictionary_that_unpacks_to_gigabytes_is_refused_before_it_does():
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4096, np.int32)), pa.array(["x" * 2**20]))
    out = io.BytesIO()
    plain = pa.schema([("x0", pa.float64()), ("note", pa.string())])  # as a writer without dictionaries tells it
    pq.write_table(pa.table({"x0": np.arange(4096.0), "note": long}), out, store_schema=False)
    assert pq.read_schema(io.BytesIO(out.getvalue())).equals(plain)
    content = out.getvalue()
    assert len(content) < 2 * 2**20
    with pytest.raises(DamagedFileError, match="column note unpacks to more than"):
        score(dense(1, 2), content)


def test_long_rows_come_in_small_blocks():
    texts = [f"{number:07}" * 20_000 for number in range(300)]
    out = io.BytesIO()
    pq.write_table(pa.table({"x0": np.arange(300.0), "note": texts}), out, compression="zstd")
    scored = score(dense(1, 2), out.getvalue(), sizes={"group_rows": 16, "chunk_bytes": 4 * 2**20})
    assert max(result.rows for result in scored.results) <= 64
    assert pq.read_table(io.BytesIO(scored.output)).column("note").to_pylist() == texts


def many_types(rows: int, group: int) -> bytes:
    numbers = np.arange(rows)
    columns = {
        "x0": pa.array(numbers / 7, mask=numbers % 11 == 0),
        "x1": pa.array(numbers % 100, pa.int8()),
        "note": pa.array([f"é{number % 50}" for number in numbers.tolist()]),
        "word": pa.array([f"w{number % 9}" for number in numbers.tolist()]).dictionary_encode(),
        "when": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * rows),
    }
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.table(columns).schema) as writer:
        for start in range(0, rows, group):  # each row group with a dictionary of its own
            part = {name: column.slice(start, group) for name, column in columns.items()}
            part["word"] = pa.array(part["word"].to_pylist()).dictionary_encode()
            writer.write_table(pa.table(part))
    return out.getvalue()


@pytest.mark.parametrize("group", [1, 7, 100])
def test_row_groups_that_are_small_make_one_chunk_with_the_same_rows(group, monkeypatch):
    monkeypatch.setattr(block_module, "BINARY_ROWS", 256)
    session, sizes = dense(2, 3), {"group_rows": 16, "chunk_rows": 256}
    whole, parted = (score(session, many_types(3000, rows), sizes=sizes) for rows in (3000, group))
    most = max(result.rows for result in whole.results)
    assert most < 3000
    assert most - group <= max(result.rows for result in parted.results) <= most
    assert len(parted.results) <= 2 * len(whole.results)
    assert parted.errors == whole.errors
    assert len(whole.errors) == 273, "every eleventh"
    found, wanted = (pq.read_table(io.BytesIO(one.output)) for one in (parted, whole))
    assert found.num_rows == wanted.num_rows == 3000 - 273
    for name in wanted.column_names:
        same, other = wanted.column(name), found.column(name)
        if pa.types.is_floating(same.type):  # run in other groups
            np.testing.assert_allclose(other.to_numpy(), same.to_numpy(), rtol=1e-5)
        else:
            assert other.to_pylist() == same.to_pylist()


def test_small_row_groups_join_only_as_far_as_rows_bytes_and_columns_fit(monkeypatch):
    def chunks(content: bytes, **sizes: int) -> list[int]:
        plan = score(dense(2, 3), content, sizes={"group_rows": 16} | sizes).plan
        return [place.rows for place in cut(io.BytesIO(content), plan)]

    monkeypatch.setattr(block_module, "BINARY_ROWS", 256)
    content = many_types(6000, 100)
    rows = chunks(content, chunk_rows=2048)
    assert sum(rows) == 6000
    assert set(rows[:-1]) == {2000}
    claims = pq.ParquetFile(io.BytesIO(content)).metadata
    size = max(claims.row_group(number).total_byte_size for number in range(60))
    assert max(chunks(content, chunk_rows=2048, chunk_bytes=2 * size)) == 200
    monkeypatch.setattr(parquet_chunks, "_COLUMNS_A_CHUNK", 3 * 5 + 1)
    assert chunks(content, chunk_rows=2048) == [300] * 20


def test_row_groups_that_unpack_to_more_than_they_say_are_refused_before_all_are_held(monkeypatch):
    monkeypatch.setattr(parquet_chunks, "_JOINED_BYTES", 8 * 2**20)
    out = io.BytesIO()
    schema = pa.schema([("x0", pa.float64()), ("note", pa.dictionary(pa.int32(), pa.string()))])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for number in range(40):  # each with a long text that no row has
            words = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["a", f"{number}" * 2**19]))
            writer.write_table(pa.table({"x0": [1.0], "note": words}, schema))
    content = out.getvalue()
    with pytest.raises(DamagedFileError, match="row groups unpack to more than"):
        score(dense(1, 2), content, sizes={"chunk_bytes": 2**30})
    scored = score(dense(1, 2), content, sizes={"chunk_bytes": 2**21})
    assert sum(result.succeeded for result in scored.results) == 40


def test_row_groups_without_rows_are_passed_over():
    columns = {"x0": pa.array(np.arange(5.0)), "x1": pa.array(np.arange(5.0))}
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.table(columns).schema) as writer:
        for rows in (0, 0, 3, 0, 2, 0):
            writer.write_table(pa.table({name: column.slice(0, rows) for name, column in columns.items()}))
    scored = score(dense(2, 3), out.getvalue())
    assert pq.ParquetFile(io.BytesIO(out.getvalue())).num_row_groups >= 5
    assert pq.read_table(io.BytesIO(scored.output)).column("x0").to_pylist() == [0.0, 1.0, 2.0, 0.0, 1.0]
