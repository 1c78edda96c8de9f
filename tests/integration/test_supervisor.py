"""The supervisor with small stand-in programs: what dies is replaced at once and in the right order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.processes import Program, StopOrder
from coatcheck.supervisor import Supervisor

# A worker's outline: says how it started; a spare says when it is promoted; SIGTERM ends it in good order.
WORKER = textwrap.dedent("""
    import os, signal, sys, time
    from coatcheck.standby import on_promotion
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
    def stop(*_):
        print("stopped", sys.argv[1], flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    standby = os.environ.get("COATCHECK_STANDBY") == "1"
    on_promotion(lambda: print("promoted", sys.argv[1], flush=True))
    print("spare" if standby else "active", sys.argv[1], flush=True)
    while True:
        time.sleep(60)
""")


def worker(name="worker-predict", node="predict", **fields) -> Program:
    command = (sys.executable, "-c", WORKER, "{node}", *fields.pop("arguments", ()))
    return Program(name=name, command=command, node=node, stop_order=StopOrder.WORKER, **fields)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    """Supervisors that are stopped at the end of the test."""
    made: list[Supervisor] = []

    def build(**fields) -> Supervisor:
        supervisor = Supervisor(logs=tmp_path / "logs", environment=dict(os.environ), **fields)
        made.append(supervisor.__enter__())
        return supervisor

    yield build
    for supervisor in reversed(made):
        supervisor.__exit__(None, None, None)


def log_of(supervisor: Supervisor, name: str) -> list[str]:
    path = supervisor.logs / f"{name}.log"
    return path.read_text().splitlines() if path.exists() else []


def turn_until(supervisor: Supervisor, condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the supervisor did not get there"
        supervisor.turn(0.05)


def test_dead_process_is_started_again_at_once(make):
    supervisor = make()
    supervisor.add(worker("worker-io", "io"))
    turn_until(supervisor, lambda: len(log_of(supervisor, "worker-io")) == 1)
    victim = supervisor.running[0].child.pid
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    turn_until(supervisor, lambda: [r for r in supervisor.running if r.child.pid != victim] != [])
    assert time.monotonic() - began < 10  # waitpid, not a period: it was 0.5 s on a quiet machine
    turn_until(supervisor, lambda: len(log_of(supervisor, "worker-io")) == 2)
    first, second = log_of(supervisor, "worker-io")
    assert first != second, "every start has a node name of its own"


def test_spare_is_promoted_before_the_dead_workers_jobs_are_given_back(make):
    order: list[str] = []
    supervisor = make(bury=lambda node: order.append(f"bury {node} spare={spare_states()}"))

    def spare_states() -> list[bool]:
        return [running.standby for running in supervisor.running]

    supervisor.add(worker(spare=True))
    turn_until(supervisor, lambda: len(log_of(supervisor, "worker-predict")) == 2)
    active = next(running for running in supervisor.running if not running.standby)
    spare = next(running for running in supervisor.running if running.standby)
    os.kill(active.child.pid, signal.SIGKILL)
    turn_until(supervisor, lambda: order != [])
    assert order == [f"bury {active.node} spare=[False]"], "promoted first, buried second, new spare third"
    turn_until(supervisor, lambda: f"promoted {spare.node}" in log_of(supervisor, "worker-predict"))
    turn_until(supervisor, lambda: len(supervisor.running) == 2)
    assert sorted(running.standby for running in supervisor.running) == [False, True]


def test_promotion_sent_while_the_spare_still_starts_is_not_lost(make):
    supervisor = make()
    supervisor.add(worker(spare=True, arguments=("1.0",)))
    active = next(running for running in supervisor.running if not running.standby)
    spare = next(running for running in supervisor.running if running.standby)
    os.kill(active.child.pid, signal.SIGKILL)
    turn_until(supervisor, lambda: f"promoted {spare.node}" in log_of(supervisor, "worker-predict"))
    assert spare in supervisor.running


def test_jobs_are_given_back_within_a_second_of_the_death(make):
    buried: list[float] = []
    supervisor = make(bury=lambda _node: buried.append(time.monotonic()))
    supervisor.add(worker("worker-io", "io"))
    delays = []
    for _ in range(5):
        supervisor._backoff.clear()
        turn_until(supervisor, lambda: len(supervisor.running) == 1)
        os.kill(supervisor.running[0].child.pid, signal.SIGKILL)
        began = time.monotonic()
        count = len(buried)
        turn_until(supervisor, partial(has_grown, buried, count))
        delays.append(buried[-1] - began)
    assert max(delays) < 0.5


def test_jobs_of_a_dead_worker_are_given_back_when_redis_is_back(make):
    calls: list[str] = []

    def bury(node: str) -> None:
        calls.append(node)
        if len(calls) < 3:
            raise StoreUnavailable

    supervisor = make(bury=bury)
    supervisor.add(worker("worker-io", "io"))
    node = supervisor.running[0].node
    os.kill(supervisor.running[0].child.pid, signal.SIGKILL)
    turn_until(supervisor, lambda: len(calls) == 3)
    assert calls == [node] * 3
    for _ in range(10):
        supervisor.turn(0.05)
    assert len(calls) == 3, "buried once"


def test_program_that_dies_at_once_is_started_ever_more_slowly(make, tmp_path):
    marks = tmp_path / "marks"
    script = f"open({str(marks)!r}, 'a').write('x')"
    supervisor = make()
    supervisor.add(Program(name="broken", command=(sys.executable, "-c", script), stop_order=StopOrder.WEB))
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        supervisor.turn(0.1)
    starts = len(marks.read_text())
    assert 3 <= starts <= 7, "now, now, 0.25 s, 0.5 s, 1 s, ..."


def test_program_that_does_not_exist_does_not_end_the_supervisor(make, capsys):
    supervisor = make()
    supervisor.add(
        Program(name="missing", command=("/nonexistent/program",), stop_order=StopOrder.WEB), worker("worker-io", "io")
    )
    turn_until(supervisor, lambda: len(log_of(supervisor, "worker-io")) == 1)
    assert "missing cannot be started" in capsys.readouterr().out


def test_silent_worker_is_killed_and_replaced(make, monkeypatch):
    monkeypatch.setattr("coatcheck.supervisor.ABSENT_S", 0.5)
    monkeypatch.setattr("coatcheck.supervisor.WATCH_PERIOD_S", 0.1)
    living = {"any": True}
    buried: list[str] = []
    supervisor = make(bury=buried.append, alive=lambda nodes: [living["any"]] * len(nodes))
    supervisor.add(worker("worker-io", "io"))
    silent = supervisor.running[0]
    turn_until(supervisor, lambda: silent.seen)
    os.kill(silent.child.pid, signal.SIGSTOP)
    living["any"] = False
    turn_until(supervisor, lambda: buried == [silent.node])
    assert silent not in supervisor.running


def test_workers_are_not_judged_while_redis_is_away(make, monkeypatch):
    monkeypatch.setattr("coatcheck.supervisor.ABSENT_S", 0.2)
    monkeypatch.setattr("coatcheck.supervisor.WATCH_PERIOD_S", 0.05)
    answers = iter([[True], *[None] * 1000])

    def alive(_nodes):
        answer = next(answers)
        if answer is None:
            raise StoreUnavailable
        return answer

    supervisor = make(alive=alive)
    supervisor.add(worker("worker-io", "io"))
    running = supervisor.running[0]
    turn_until(supervisor, lambda: running.seen)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        supervisor.turn(0.05)
    assert supervisor.running == [running]
    assert supervisor.deaths == 0


def test_stop_goes_web_then_workers_then_redis(make, tmp_path):
    marks = tmp_path / "marks"
    script = textwrap.dedent("""
        import signal, sys, time
        def stop(*_):
            with open(sys.argv[1], "a") as file: file.write(sys.argv[2] + "\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("up", flush=True)
        while True: time.sleep(60)
    """)
    supervisor = make()
    for name, order in (("redis", StopOrder.REDIS), ("web", StopOrder.WEB), ("worker", StopOrder.WORKER)):
        command = (sys.executable, "-c", script, str(marks), name)
        supervisor.add(Program(name=name, command=command, stop_order=order))
    turn_until(supervisor, lambda: all(log_of(supervisor, name) for name in ("redis", "web", "worker")))
    supervisor.stop()
    assert marks.read_text().split() == ["web", "worker", "redis"]
    assert supervisor.running == []


def test_process_that_ignores_sigterm_is_killed_with_its_children(make, tmp_path):
    child_pid = tmp_path / "pid"
    script = textwrap.dedent(f"""
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(child_pid)!r}).write_text(str(child.pid))
        print("up", flush=True)
        time.sleep(600)
    """)
    supervisor = make()
    program = Program(name="deaf", command=(sys.executable, "-c", script), stop_order=StopOrder.WORKER, grace_s=0.3)
    supervisor.add(program)
    turn_until(supervisor, lambda: log_of(supervisor, "deaf") == ["up"])
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 30
    # Killed with its group, but not our child: init may take a moment to bury it.
    deadline = time.monotonic() + 10
    while is_running(int(child_pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_children_die_with_a_killed_supervisor(tmp_path):
    script = textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from coatcheck.processes import Program, StopOrder
        from coatcheck.supervisor import Supervisor
        with Supervisor(logs=Path({str(tmp_path)!r}), environment=dict(os.environ)) as supervisor:
            command = (sys.executable, "-c", "import time; time.sleep(600)")
            supervisor.add(Program(name="sleeper", command=command, stop_order=StopOrder.WEB))
            print(supervisor.running[0].child.pid, flush=True)
            while not supervisor.stop_requests:
                supervisor.turn(1)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert is_running(child)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_output_goes_to_the_log_and_named_to_the_console(make, capsys):
    supervisor = make()
    command = (sys.executable, "-c", "print('one'); print('two', end='')")
    supervisor.add(Program(name="talker", command=command, stop_order=StopOrder.WEB))
    turn_until(supervisor, lambda: supervisor.deaths >= 1)
    assert log_of(supervisor, "talker")[:2] == ["one", "two"]
    assert "talker           | one\ntalker           | two\n" in capsys.readouterr().out


def test_log_that_grew_past_its_limit_is_begun_anew_and_the_old_one_kept(make, monkeypatch):
    monkeypatch.setattr("coatcheck.child.LOG_LIMIT_BYTES", 3000)
    script = "import time\nfor n in range(50):\n print(f'{n:<99}', flush=True); time.sleep(0.005)\ntime.sleep(600)"
    supervisor = make()
    command = (sys.executable, "-c", script)
    supervisor.add(Program(name="chatty", command=command, stop_order=StopOrder.WEB, count=2))
    turn_until(supervisor, (supervisor.logs / "chatty.log.1").exists)
    turn_until(supervisor, lambda: any(line.startswith("49 ") for line in log_of(supervisor, "chatty")))
    assert (supervisor.logs / "chatty.log").stat().st_size <= 6000


def has_grown(items: list[float], length: int) -> bool:
    return len(items) > length


def is_running(pid: int) -> bool:
    """True for a live process that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
