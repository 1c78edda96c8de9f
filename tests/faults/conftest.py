"""How often the faults are repeated, and the table of what came of it, printed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

CYCLES = "CHAOS_CYCLES"
_rows: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cycles`, known when tests/faults is named on the command line; `CHAOS_CYCLES` works always."""
    parser.addoption("--cycles", type=int, default=None, help="repetitions of each fault (default 2)")


@pytest.fixture(scope="session")
def cycles(request: pytest.FixtureRequest) -> int:
    """Repetitions of each fault."""
    return int(request.config.getoption("--cycles", default=None) or os.environ.get(CYCLES) or 2)


@pytest.fixture(scope="session")
def report() -> Callable[[str], None]:
    """Add a line to the table."""
    return _rows.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if _rows:
        terminalreporter.section("faults")
        for row in _rows:
            terminalreporter.write_line(row)
