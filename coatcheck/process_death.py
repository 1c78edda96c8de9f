"""Children that die with their parent: PR_SET_PDEATHSIG. Linux only; elsewhere it says so and does nothing.

Bound when imported, so that the call between fork and exec touches nothing but the system call. The signal is
tied to the *thread* that started the child: start children from a thread that lives as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent(parent: int | None = None) -> bool:
    """Ask for SIGKILL when the parent dies; False where this system cannot.

    `parent` is the pid the parent had: if it died before the request took effect, this process ends at once.
    """
    if _prctl is None or _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
