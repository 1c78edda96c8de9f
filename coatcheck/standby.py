"""A warm spare's way into service: the supervisor sends SIGUSR1, the spare begins to claim.

The supervisor starts every child with SIGUSR1 blocked, so a promotion sent while the spare still starts waits in
the kernel instead of killing it. Knows nothing of what the spare does then.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

PROMOTION = signal.SIGUSR1


def on_promotion(promote: Callable[[], None]) -> None:
    """Call `promote` in the main thread when the signal comes, at once if it already came.

    Call it from the main thread, after Celery has installed its own SIGUSR1 handler (a bootstep's start does).
    `promote` runs in a signal handler: it may set an event or a flag, no more.
    """
    signal.signal(PROMOTION, lambda _number, _frame: promote())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {PROMOTION})
