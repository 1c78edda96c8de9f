"""Where a chunk's scoring stops to let predictions go first, and what it does not wait for."""

from __future__ import annotations

import io
import threading
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring import dense

from coatcheck.batches import BatchInput, ChunkInput, ChunkResult, Part, Plan
from coatcheck.signature import NumberInput
from workers.batch import pace as pace_module
from workers.batch import score as score_module
from workers.batch.formats import open_plan
from workers.batch.parts import output_part
from workers.batch.readers import cut, open_reader
from workers.batch.rows import LineRows
from workers.batch.score import score_chunk
from workers.sessions import LoadedSession
from workers.turns import SLICE_S

COLUMNS = ("a", "b", "c")


@pytest.fixture(scope="module")
def session() -> LoadedSession:
    return dense(tuple(NumberInput(name=name, required=True) for name in COLUMNS), 2)


def parquet(rows: int, group: int) -> bytes:
    random = np.random.default_rng(3)
    values = [pa.array(random.normal(size=rows)) for _ in COLUMNS]
    values[0] = pa.array([None if n % 50 == 0 else float(n) for n in range(rows)])  # bad rows
    out = io.BytesIO()
    pq.write_table(pa.table(dict(zip(COLUMNS, values, strict=True))), out, row_group_size=group)
    return out.getvalue()


def plan_of(session: LoadedSession, content: bytes) -> Plan:
    return open_plan(
        io.BytesIO(content), batch="b", source_name="s", size=len(content), given=BatchInput(input_file="f"),
        version="v", signature=session.signature, model_bytes=1000,
    )  # fmt: skip


def slices(session: LoadedSession, content: bytes, write_part: Any, **given: Any) -> Any:
    """One chunk of the whole file, to be gone through slice by slice."""
    plan, source = plan_of(session, content), io.BytesIO(content)
    (place,) = cut(source, plan)
    return score_chunk(
        session, ChunkInput(batch="b", n=0, place=place), plan, reader=open_reader(source, plan, session.signature),
        write_part=write_part, read_file=lambda _: b"", **given,
    )  # fmt: skip


def result_of(steps: Any) -> ChunkResult:
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return cast(ChunkResult, ended.value)


@pytest.mark.parametrize("slow", ["output", "errors"])
def test_disk_that_is_slow_with_either_part_leaves_time_for_predictions(session, slow):
    written = threading.Event()

    def write_part(kind: str, pieces: Any) -> Part:
        content = b"".join(pieces)
        assert kind != slow or written.wait(20), "nobody else had a turn"
        return Part(name=kind, size=len(content))

    steps = slices(session, parquet(500, 500), write_part)
    for _ in range(20):  # it comes back although the part is not written
        next(steps)
    written.set()
    result = result_of(steps)
    assert (result.succeeded, result.failed) == (490, 10)
    assert {result.output.name, result.errors.name} == {"output", "errors"}


def test_disk_that_is_full_for_the_error_file_ends_the_chunk_with_that(session):
    def write_part(kind: str, pieces: Any) -> Part:
        content = b"".join(pieces)
        if kind == "errors":
            raise OSError(28, "full")
        return Part(name=kind, size=len(content))

    with pytest.raises(OSError, match="full"):
        for _ in slices(session, parquet(500, 500), write_part):
            pass


def test_step_that_would_go_past_a_slice_gets_one_of_its_own(session, monkeypatch):
    clock = [0.0]
    for module in (score_module, pace_module):
        monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    make = output_part

    def slow_part(*given: Any) -> Any:
        part: Any = make(*given)
        add = part.add

        def slow_add(*rows: Any) -> None:
            clock[0] += 0.015
            add(*rows)

        part.add = slow_add
        return part

    monkeypatch.setattr(score_module, "output_part", slow_part)
    monkeypatch.setattr(LoadedSession, "run", timed(LoadedSession.run, clock, 0.001))
    found: list[float] = []
    last = 0.0
    for _ in slices(session, parquet(40_000, 40_000), written_at_once):
        found.append(clock[0] - last)
        last = clock[0]
    assert max(found[5:]) <= SLICE_S, "known after the first block"


def test_steps_before_a_chunk_s_first_group_are_each_told_apart(session, monkeypatch):
    lines = b"".join(b'{"a":%d,"b":1,"c":2}\n' % number for number in range(600))
    ran: list[int] = []
    monkeypatch.setattr(LoadedSession, "run", noting(LoadedSession.run, ran))
    steps = slices(session, lines, written_at_once)
    for _ in ("read", "where lines end", "a block's arrays", "a group's"):  # nobody knows what they take
        next(steps)
        assert not ran
    result = result_of(steps)
    assert (len(ran), result.succeeded) == (3, 600)


def test_lines_are_decoded_run_and_written_a_group_at_a_time(session, monkeypatch):
    lines = b"".join(b'{"a":%d,"b":1,"c":2}\n' % number for number in range(1024))
    clock = [0.0]
    for module in (score_module, pace_module):
        monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    make = output_part

    def slow_part(*given: Any) -> Any:
        part: Any = make(*given)
        part.add = timed(part.add, clock, 0.003)
        return part

    monkeypatch.setattr(score_module, "output_part", slow_part)
    monkeypatch.setattr(LineRows, "group", timed(LineRows.group, clock, 0.003))
    monkeypatch.setattr(LoadedSession, "run", timed(LoadedSession.run, clock, 0.003))
    found, last = [], 0.0
    for _ in slices(session, lines, written_at_once, slice_s=lambda: 0.004):
        found.append(round(clock[0] - last, 6))
        last = clock[0]
    assert (max(found), round(1000 * sum(found))) == (0.003, 4 * 3 * 3)


def test_slices_become_short_in_the_middle_of_a_chunk(session, monkeypatch):
    clock, wanted = [0.0], [SLICE_S]
    for module in (score_module, pace_module):
        monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    monkeypatch.setattr(LoadedSession, "run", timed(LoadedSession.run, clock, 0.004))
    found: list[float] = []
    steps = slices(session, parquet(40_000, 40_000), written_at_once, slice_s=lambda: wanted[0])
    last = 0.0
    for number, _ in enumerate(steps):
        found.append(round(clock[0] - last, 6))
        last = clock[0]
        if number == 12:
            wanted[0] = SLICE_S / 2
    assert max(found[8:13]) == 0.016
    assert max(found[13:]) == 0.008


def written_at_once(kind: str, pieces: Any) -> Part:
    return Part(name=kind, size=len(b"".join(pieces)))


def noting(run: Any, ran: list[int]) -> Any:
    def noted(self: LoadedSession, arrays: Any, *given: Any) -> Any:
        ran.append(len(arrays["x"]))
        return run(self, arrays, *given)

    return noted


def timed(run: Any, clock: list[float], seconds: float) -> Any:
    def slowly(self: LoadedSession, *given: Any) -> Any:
        clock[0] += seconds
        return run(self, *given)

    return slowly


@pytest.mark.parametrize(
    ("group", "chunks"), [(10_000, [10_000] * 3), (16_384, [16_384, 13_616]), (30_000, [8192] * 3 + [5424])]
)
def test_row_group_of_up_to_two_chunks_is_one(session, group, chunks):
    content = parquet(30_000, group)
    plan = msgspec.structs.replace(plan_of(session, content), chunk_rows=8192)
    assert [place.rows for place in cut(io.BytesIO(content), plan)] == chunks
