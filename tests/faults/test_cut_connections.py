"""Connections to Redis that are cut anywhere: one job a key, one end a job, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_py
from faults.cutting_proxy import cutting_proxy
from tiny_versions import ACCOUNT, lookup, publish

from coatcheck.audit import audit
from coatcheck.claims import Idempotency
from coatcheck.core import Core, open_core
from coatcheck.errors import StoreUnavailable
from coatcheck.settings import Settings
from workers.predict import PredictLoop
from workers.sessions import CPU

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = 3


def poll() -> str:
    time.sleep(0.002)
    return ""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A path that fits into a unix socket's address."""
    with tempfile.TemporaryDirectory(prefix="cut-") as folder:
        yield Path(folder)


def submit(core: Core, version: str, number: int, deadline: float) -> str:
    """As a client does: the same request with the same key until it is answered."""
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    key = Idempotency(digest=digest, fingerprint=digest)
    raw_input = json.dumps({"x": number % 100}).encode()
    while True:
        assert time.monotonic() < deadline, "a submit is never answered"
        try:
            return core.queue.submit_prediction(ACCOUNT, version=version, raw_input=raw_input, idempotency=key).job.id
        except (StoreUnavailable, redis_py.exceptions.ConnectionError):
            time.sleep(0.001)


def test_cut_connections_make_no_second_job_and_lose_none(redis, settings: Settings, short_folder, cycles, report):
    straight = open_core(settings)
    version = publish(straight, lookup(), "lookup")
    count = 50 * cycles
    ids: dict[int, str] = {}
    with cutting_proxy(short_folder, settings.redis_url, mean_bytes=6000) as proxy:
        cut = open_core(replace(settings, redis_url=proxy.url, predict_lease_s=3.0, predict_heartbeat_s=0.5))
        loop = PredictLoop(cut, "predict@cut.1", CPU, poll)
        worker = threading.Thread(target=loop.run, daemon=True)
        loop.leases.start()
        worker.start()
        deadline = time.monotonic() + 60 + count / 5

        def client(first: int) -> None:
            core = open_core(replace(settings, redis_url=proxy.url))
            for number in range(first, count, CLIENTS):
                ids[number] = submit(core, version, number, deadline)
            core.store.client.close()

        clients = [threading.Thread(target=client, args=(first,), daemon=True) for first in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert len(ids) == count
        names = [ids[number] for number in range(count)]
        while not all(job and job.status.terminal for job in straight.store.get_many(names)):
            straight.store.sweep()
            assert time.monotonic() < deadline, "a job does not end"
            time.sleep(0.02)
        loop.stop()
        worker.join(10)
        assert not worker.is_alive()
        loop.leases.stop()
        cut.store.client.close()
    jobs = straight.store.get_many(names)
    report(
        f"{'connections cut anywhere':<32} cuts {proxy.cuts}  accepted {len(set(names))}  "
        f"claims {sum(job.fence for job in jobs if job)}  attempts at most {max(job.attempts for job in jobs if job)}"
    )
    assert len(set(names)) == count
    assert straight.store.client.zcard("q:{c}:of:me:prediction") == count
    assert [json.loads(job.output or b"{}")["value"] for job in jobs if job] == [10.0 * (n % 100) for n in range(count)]
    assert proxy.cuts > count / 10
    assert audit(straight.store) == []
    straight.store.client.close()
