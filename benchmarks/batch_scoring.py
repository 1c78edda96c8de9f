"""Batch scoring against one plain process: rows/s of a worker, of two, and memory that does not grow.

`python -m benchmarks.batch_scoring` uploads files of 64 numbers a row to a running service and has them scored; the
same files are scored by `plain_batch.py`, which reads, runs and writes with the same libraries. Rounds alternate.
Ours is told twice: `scoring` counts from the first chunk to the last (what a worker does), `whole` from the accepted
request to the finished file, planning and putting together included. `a CPU s` is rows for each CPU second of the
plain process and of the workers alone: what is left to compare on a machine that others use too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.batch_model import COLUMNS, write_batch_model
from benchmarks.batch_service import BatchService, batch_service

_BLOCK = 50_000
_ANONYMOUS = "Anonymous:"
#: What the whole batch, planned, scored and put together, has to reach of the plain process.
_TARGET = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One file scored: seconds, CPU seconds, and the most anonymous bytes of a predict worker meanwhile."""

    seconds: float
    scoring_s: float
    cpu_s: float
    anonymous: int
    #: The same of worker-io, which plans and puts together.
    io_anonymous: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table."""

    folder: Path
    model: Path
    kind: str
    rows: int
    workers: int
    rounds: int


_HEAD = (
    *("what", "rows", "plain rows/s", "scoring rows/s", "ratio", "whole rows/s", "ratio"),
    *("plain a CPU s", "ours", "ratio", "peak MiB", "io MiB", f"whole >= {_TARGET}"),
)


def main() -> None:
    """Measure and print."""
    options = _options()
    console = Console(width=180)
    with tempfile.TemporaryDirectory(prefix="batch-", dir=options.folder) as name:
        folder = Path(name).resolve()
        model = write_batch_model(folder / "model.onnx")
        for kind in options.formats:
            table = Table(*_HEAD, title=kind)
            for rows in options.rows:
                for workers in options.workers:
                    case = Case(
                        folder=folder, model=model, kind=kind, rows=rows, workers=workers, rounds=options.rounds
                    )
                    line = _compare(case)
                    table.add_row(*line)
                    console.print("  ".join((kind, *line)))
            console.print(table)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet"])
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", default=None, help="where files lie meanwhile (a disk, not memory)")
    return parser.parse_args()


def _compare(case: Case) -> tuple[str, ...]:
    plain: list[tuple[float, float]] = []
    ours: list[Run] = []
    source = write_rows(case.folder / "rows", case.kind, case.rows)
    # Each plain process gets a file of its own: to read past the other's half would cost it time.
    halves = [source]
    if case.workers > 1:
        each = case.rows // case.workers
        halves = [write_rows(case.folder / f"rows-{place}", case.kind, each) for place in range(case.workers)]
    rows, workers = case.rows, case.workers
    with batch_service(case.folder / f"home-{time.time_ns()}", case.model, workers) as service:
        file = service.upload(source)
        for _ in range(case.rounds):
            plain.append(_plain(case, halves))
            ours.append(_ours(service, file, rows))
    for path in {source, *halves}:
        path.unlink()
    plain_rate = max(rows / seconds for seconds, _ in plain)
    plain_cpu = max(rows / used for _, used in plain)
    cpu = max(rows / run.cpu_s for run in ours)
    scoring = max(rows / run.scoring_s for run in ours)
    whole = max(rows / run.seconds for run in ours)
    return (
        f"{workers} worker{'s' if workers > 1 else ''}",
        f"{rows:,}",
        f"{plain_rate:,.0f}",
        f"{scoring:,.0f}",
        f"{scoring / plain_rate:.2f}",
        f"{whole:,.0f}",
        f"{whole / plain_rate:.2f}",
        f"{plain_cpu:,.0f}",
        f"{cpu:,.0f}",
        f"{cpu / plain_cpu:.2f}",
        f"{max(run.anonymous for run in ours) / 1024**2:.0f}",
        f"{max(run.io_anonymous for run in ours) / 1024**2:.0f}",
        "yes" if whole / plain_rate >= _TARGET else "no",
    )


def _plain(case: Case, sources: list[Path]) -> tuple[float, float]:
    """Seconds until all plain processes, each with its file, have ended (without their imports); their CPU seconds."""
    command = [sys.executable, "-m", "benchmarks.plain_batch", case.kind]
    started = [
        subprocess.Popen(
            [*command, str(source), f"{source}.out", str(case.model)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for source in sources
    ]
    told = [process.communicate()[0].split() for process in started]
    for source in sources:
        Path(f"{source}.out").unlink(missing_ok=True)
    if any(process.returncode for process in started) or sum(int(count) for count, _, _ in told) != case.rows:
        raise RuntimeError("the plain processes did not score all rows")
    return max(float(seconds) for _, seconds, _ in told), sum(float(used) for _, _, used in told)


def _ours(service: BatchService, file: str, rows: int) -> Run:
    peak = {"predict@": 0, "io@": 0}
    before = _cpu_s(service)
    with _watching(service, peak):
        seconds, scoring = service.score(file, rows)
    return Run(
        seconds=seconds,
        scoring_s=scoring,
        cpu_s=_cpu_s(service) - before,
        anonymous=peak["predict@"],
        io_anonymous=peak["io@"],
    )


def _cpu_s(service: BatchService) -> float:
    """CPU seconds the predict workers have used so far."""
    return sum(sum(cpu_times(pid)) for pid in service.workers())


def cpu_times(pid: int) -> tuple[float, float]:
    """User and system CPU seconds of a process; zeros once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


@contextmanager
def _watching(service: BatchService, peak: dict[str, int]) -> Iterator[None]:
    """Notes the most anonymous memory of one process of each kind; costs the cores it measures next to nothing."""
    stop = threading.Event()
    processes = {kind: service.workers(kind) for kind in peak}

    def look() -> None:
        while not stop.wait(0.5):
            for kind, most in peak.items():
                peak[kind] = max([most, *map(anonymous_bytes, processes[kind])])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is no file's; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(_ANONYMOUS)), 0)


def write_rows(path: Path, kind: str, rows: int) -> Path:
    """A file of numbers, block by block; the same for the same count."""
    writer: Any = None
    random = np.random.default_rng(7)
    with path.open("wb") as out:
        for start in range(0, rows, _BLOCK):
            values = random.normal(size=(min(_BLOCK, rows - start), len(COLUMNS))).astype(np.float32).astype(np.float64)
            table = pa.table({name: values[:, place].round(6) for place, name in enumerate(COLUMNS)})
            if kind == "jsonl":
                out.write(msgspec.json.Encoder().encode_lines(table.to_pylist()))
                continue
            if writer is None:
                writer = (arrow_csv.CSVWriter if kind == "csv" else pq.ParquetWriter)(out, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return path


if __name__ == "__main__":
    main()
