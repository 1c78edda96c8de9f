"""One chunk scored slice by slice: read, decode, run, render; a bad row goes to the error part, alone.

A format is a reader (`readers.py: open_reader(...).read(place)` gives `block.Block`s, or None after a step that gave
none), a way to arrays (`rows.Decoder`) and an output part (`parts.output_part`). A format of its own kind
(`openai_lines.py`) brings its own `score(...)` with the arguments and the result of `score_chunk`.

ONNX Runtime runs groups of `plan.group_rows` rows counted from the chunk's first row, so the output is the same to
the last bit however often a chunk is begun again and whatever else the worker does. Knows no queue and no storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

import numpy as np
import structlog

from coatcheck.batches import ChunkInput, ChunkResult, Part, Plan
from coatcheck.errors import RunLimit
from coatcheck.signature import rows_run_together
from workers.batch.block import BadRow, Block, Places, error_of
from workers.batch.pace import Pace, Step, Timed
from workers.batch.part_stream import WAIT_S, PartStream, WritePart
from workers.batch.parts import ErrorPart, OutputPart, output_part
from workers.batch.readers import Reader
from workers.batch.rows import Decoder, Group
from workers.decoding import Arrays
from workers.encoding import Outputs
from workers.sessions import LoadedSession
from workers.turns import whole_slice

ReadFile = Callable[[str], bytes]
#: A group that takes longer is stopped and tried in halves; a row that does fails.
ROW_LIMIT_S = 60.0

log = structlog.get_logger()


def score_chunk(
    session: LoadedSession,
    chunk: ChunkInput,
    plan: Plan,
    *,
    reader: Reader,
    write_part: WritePart,
    read_file: ReadFile,
    slice_s: Callable[[], float] = whole_slice,
) -> Generator[None, None, ChunkResult]:
    """Score a chunk; stops between two slices of about `slice_s` seconds, and returns (StopIteration) a ChunkResult.

    Raises:
        Whatever reading the file raises that is not a row's fault; the chunk is then scored again from its beginning.
    """
    output, errors = PartStream(write_part, "output"), PartStream(write_part, "errors")
    try:
        scoring, blocks = _Scoring(session, chunk, plan, read_file), Timed(reader.read(chunk.place))
        return (yield from _score(scoring, blocks, output, errors, Pace(slice_s)))
    except BaseException:
        output.give_up()
        errors.give_up()
        raise


def _score(
    scoring: _Scoring, blocks: Timed[Block | None], output: PartStream, errors: PartStream, pace: Pace
) -> Generator[None, None, ChunkResult]:
    for block in blocks:
        for following_s in scoring.block(block) if block is not None else ():
            if pace.over(following_s):
                yield
                pace.begin()
        output.put(scoring.output.take())
        if pace.over(blocks.following_s):
            yield
            pace.begin()
    yield
    output.put(scoring.output.finish())
    output.end()
    errors.put(scoring.errors.finish())
    errors.end()
    yield
    while not (output.wait(WAIT_S) and errors.wait(WAIT_S)):
        yield
    return scoring.result(output.part, errors.part)


class _Scoring:
    """What a chunk has so far."""

    def __init__(self, session: LoadedSession, chunk: ChunkInput, plan: Plan, read_file: ReadFile) -> None:
        self._session = session
        self._chunk = chunk
        self._plan = plan
        self._decoder = Decoder(session.signature, plan, read_file, session.tokenize)
        self._together = rows_run_together(session.signature)
        self.output: OutputPart = output_part(session.signature, plan)
        self.errors = ErrorPart()
        self._only = None if chunk.only is None else np.array(chunk.only, np.int64)
        self._succeeded = 0
        #: How long a block's arrays, those of a group, its run, and a block's outputs take.
        self._arrays, self._decode, self._graph, self._outputs = Step(), Step(), Step(), Step()

    def block(self, block: Block) -> Iterator[float]:
        """Score a block step by step; says before each how many seconds it may take."""
        wanted = np.arange(block.rows)
        if self._only is not None:
            wanted = wanted[np.isin(wanted + block.first_row, self._only)]
            if not len(wanted):
                return
        yield self._arrays.following_s
        with self._arrays:
            rows = self._decoder.rows(block)
        scored: list[Places] = []
        outputs: list[Outputs] = []
        bad: list[tuple[int, BadRow]] = []
        for first in range(0, block.rows, self._plan.group_rows):
            numbers = wanted[(wanted >= first) & (wanted < first + self._plan.group_rows)]
            if not len(numbers):
                continue
            yield self._decode.following_s
            with self._decode:
                group = rows.group(numbers)
            yield self._graph.following_s
            with self._graph:
                done, answers, failed = self._run(group)
            scored.append(done)
            outputs += answers
            bad += group.bad + failed
        yield self._outputs.following_s
        with self._outputs:
            done = np.concatenate(scored)
            self._succeeded += len(done)
            self.output.add(block, wanted, done, self._joined(outputs))
            self._tell(block, bad)

    def _joined(self, outputs: list[Outputs]) -> list[Outputs]:
        if len(outputs) < 2 or not self._together:
            return outputs
        return [{name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}]

    def _tell(self, block: Block, bad: list[tuple[int, BadRow]]) -> None:
        bad.sort(key=lambda one: one[0])
        self.errors.add([error_of(block, number, reason) for number, reason in bad])

    def _run(self, group: Group) -> tuple[Places, list[Outputs], list[tuple[int, BadRow]]]:
        """The rows that ran, their outputs in order, and those on which the graph fails."""
        if not len(group.numbers):
            return group.numbers, [], []
        if self._together or len(group.numbers) == 1:
            return self._run_halving(group.numbers, group.arrays)
        done: list[Places] = []
        outputs: list[Outputs] = []
        bad: list[tuple[int, BadRow]] = []
        for place in range(len(group.numbers)):  # a graph that takes one row at a time
            one = self._run_halving(group.numbers[place : place + 1], _rows_of(group.arrays, place, place + 1))
            done.append(one[0])
            outputs += one[1]
            bad += one[2]
        return np.concatenate(done), outputs, bad

    def _run_halving(self, numbers: Places, arrays: Arrays) -> tuple[Places, list[Outputs], list[tuple[int, BadRow]]]:
        try:
            return numbers, [self._session.run(arrays, time.monotonic() + ROW_LIMIT_S)], []
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types; halved on any, to find the row
            if len(numbers) == 1:
                return numbers[:0], [], [(int(numbers[0]), self._cannot_run(error))]
        middle = len(numbers) // 2
        left = self._run_halving(numbers[:middle], _rows_of(arrays, 0, middle))
        right = self._run_halving(numbers[middle:], _rows_of(arrays, middle, len(numbers)))
        return np.concatenate([left[0], right[0]]), left[1] + right[1], left[2] + right[2]

    def _cannot_run(self, error: Exception) -> BadRow:
        log.info("row failed", action="score", batch=self._plan.batch, cause=error)
        if isinstance(error, RunLimit):
            return BadRow(RunLimit.code, f"The row ran longer than {ROW_LIMIT_S:g} s.")
        return BadRow("run_failed", "The model cannot run on this input.")

    def result(self, output: Part, errors: Part) -> ChunkResult:
        """What is told about the chunk."""
        failed = sum(self.errors.codes.values())
        return ChunkResult(
            rows=self._chunk.wanted,
            succeeded=self._succeeded,
            failed=failed,
            codes=dict(self.errors.codes),
            output=output,
            errors=errors,
        )


def _rows_of(arrays: Arrays, start: int, end: int) -> Arrays:
    return {name: array[start:end] for name, array in arrays.items()}
