"""Lines between a supervisor and its training child: they come whole, and one without end ends the child."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from workers import training_process
from workers.training_process import TrainingProcess
from workers.training_protocol import read_lines


def lines_of(content: bytes, longest: int) -> list[bytes]:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            left = content
            while left:
                left = left[file.write(left) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return list(read_lines(reading, longest))
    finally:
        os.close(reading)
        thread.join()


def test_lines_come_whole_however_they_are_cut():
    wanted = [b"", b"a" * 70_000, b"b", b"", b"c" * 200_000]
    assert lines_of(b"\n".join(wanted) + b"\nnot ended", 200_000) == wanted


def test_line_that_is_too_long_is_given_up():
    with pytest.raises(ValueError, match="100000"):
        lines_of(b"short\n" + b"a" * 65_536 + b"b" * 34_465, 100_000)


def test_child_that_another_thread_is_about_to_have_closed_is_not_alive(tmp_path: Path):
    program = tmp_path / "child.py"
    program.write_text("")
    child = TrainingProcess((sys.executable, str(program)))
    os.waitpid(child.pid, 0)  # as `close` does, in the moment before it notes the exit status
    assert not child.alive
    child.close()


def test_child_that_says_a_line_without_end_is_ended_and_its_training_failed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training_process, "read_lines", partial(read_lines, longest=2**20))
    program = tmp_path / "child.py"
    program.write_text(
        "import os, sys\n"
        "descriptor = int(sys.argv[sys.argv.index('--events-fd') + 1])\n"
        "while True: os.write(descriptor, b'x' * 65536)\n"
    )
    child = TrainingProcess((sys.executable, str(program)))
    try:
        event = child.next_event(20)
        assert event is not None
        assert (event["event"], event["code"], event["user"]) == ("failed", "crashed", True)
    finally:
        assert child.close() < 0
