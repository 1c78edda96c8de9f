"""The supervisor's handle on one training child: start, tell, listen, freeze, kill. Knows no jobs and no Redis.

The child is spawned, never forked with state, and leads a process group of its own, so that whatever it starts
ends with it. Start children from a thread that lives as long as the process: their parent-death signal is tied
to it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from workers.training_protocol import TrainingSpec, read_lines

PROGRAM = (sys.executable, "-m", "workers.training_child")
#: Events after which the child has nothing more to say.
LAST_EVENTS = frozenset({"result", "failed", "canceled", "stopped"})
_ENDLESS = "the training said more at once than it may, and was ended"


class TrainingProcess:
    """One child, from its start (without a spec, warming up) to its end."""

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        """Start it; returns at once. Raises OSError when it cannot be started."""
        reading, writing = os.pipe()
        taking, giving = os.pipe()
        command = [*program, "--events-fd", str(writing), "--parent-pid", str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[writing, taking],
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            os.close(giving)
            raise
        finally:
            os.close(writing)
            os.close(taking)
        #: The way a key goes: the child's descriptor by its number, and our end of it until it is used.
        self._taking = taking
        self._giving: int | None = giving
        self.started = time.monotonic()
        self.ready = threading.Event()
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, args=(reading,), name="child-events", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once it has ended. Does not reap: until `close` its number and its group's stay its own."""
        if self._process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:  # another thread has just closed it
            return False

    def begin(self, spec: TrainingSpec, key: bytes = b"") -> None:
        """Give it its training, and the key that its checkpoints are encrypted under.

        Raises:
            BrokenPipeError: it has died meanwhile.
        """
        assert self._process.stdin is not None
        if key and self._giving is not None:
            os.write(self._giving, key)
            spec = msgspec.structs.replace(spec, key_fd=self._taking)
        self._end_giving()
        self._process.stdin.write(msgspec.json.encode(spec) + b"\n")
        self._process.stdin.flush()

    def tell(self, word: str) -> None:
        """Say `cancel` or `stop`; a child that is gone does not mind."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(word.encode() + b"\n")
            self._process.stdin.flush()

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event; None after `timeout_s`, or at once when it has ended and said all (see `ended`)."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def ended(self) -> bool:
        """True when its pipe is closed and all it said was read."""
        return not self._listener.is_alive() and self._events.empty()

    def terminate(self) -> None:
        """SIGTERM to the process itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def freeze_and_kill(self) -> None:
        """Stop the whole group in the same instant, then kill it: nothing of it acts any more."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> int:
        """Make sure that the group is gone; returns the exit status (negative: killed by that signal)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._end_giving()
        self._listener.join(timeout=5)
        return status

    def _end_giving(self) -> None:
        giving, self._giving = self._giving, None
        if giving is not None:
            os.close(giving)

    def _listen(self, descriptor: int) -> None:
        try:
            for line in read_lines(descriptor):
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    event = msgspec.json.decode(line, type=dict[str, Any])
                    if event.get("event") == "ready":
                        self.ready.set()
                    else:
                        self._events.put(event)
        except ValueError:  # it goes on without end
            self._events.put({"event": "failed", "code": "crashed", "message": _ENDLESS, "user": True, "field": None})
            if self.alive:
                self.freeze_and_kill()
        finally:
            os.close(descriptor)
            self._events.put(None)
