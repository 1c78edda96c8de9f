"""How busy the machine is with other things: figures measured beside other work mean little. Reads /proc/stat."""

from __future__ import annotations

import time
from pathlib import Path

#: Columns of /proc/stat's first line.
_IDLE = (3, 4)
_STEAL = 7


def busy_share(seconds: float = 1.0) -> float:
    """Share of all cores that was not idle, 0 to 1, measured for so long; call it while nothing of ours runs."""
    before = _ticks()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_ticks(), before, strict=True)]
    return 1.0 - sum(spent[column] for column in _IDLE) / max(sum(spent), 1)


class StealWatch:
    """How much of the machine's time its host took away since this was made."""

    def __init__(self) -> None:
        self._before = _ticks()

    @property
    def share(self) -> float:
        """Stolen share of all cores' time, 0 to 1."""
        spent = [now - then for now, then in zip(_ticks(), self._before, strict=True)]
        return spent[_STEAL] / max(sum(spent), 1)


def _ticks() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
