"""How often the faults are repeated, and the table of what came of it, printed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from faults.runs import Bench, running_bench

CYCLES = "CHAOS_CYCLES"
#: From so many cycles on, recovery times are judged too.
JUDGED_CYCLES = 10
_rows: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cycles`, known when tests/faults is named on the command line; `CHAOS_CYCLES` works always."""
    parser.addoption("--cycles", type=int, default=None, help="repetitions of each fault (default 2)")


@pytest.fixture(scope="session")
def cycles(request: pytest.FixtureRequest) -> int:
    """Repetitions of each fault."""
    return int(request.config.getoption("--cycles", default=None) or os.environ.get(CYCLES) or 2)


@pytest.fixture(scope="session")
def slack(cycles: int) -> float:
    """Factor on the times that are promised: `make chaos` holds them; the suite, on a busy machine, only tells the
    fast ways from the slow ones (a median of 1.5 s stays under the lease of 10 s that a lost fast way would cost)."""
    return 1.0 if cycles >= JUDGED_CYCLES else 4.0


@pytest.fixture(scope="session")
def report() -> Callable[[str], None]:
    """Add a line to the table."""
    return _rows.append


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One service for all faults that leave it as it was; its checkpoints are many, else it is as delivered."""
    home = tmp_path_factory.mktemp("faults") / "home"
    with running_bench(home, checkpoint_period_s="0.3", train_heartbeat_s="0.2") as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if _rows:
        terminalreporter.section("faults")
        for row in _rows:
            terminalreporter.write_line(row)
