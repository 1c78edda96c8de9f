"""The command line: exit statuses and words; `run` is tested in acceptance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coatcheck import keys
from coatcheck.key_check import KeyCheck

ROOT = Path(__file__).parents[2]


@pytest.fixture
def coatcheck(redis, redis_server, tmp_path):
    """Runs `python -m coatcheck ...` on the test's Redis and home."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "COATCHECK_HOME": str(tmp_path), "COATCHECK_REDIS_URL": redis_server, **environment}
        command = [sys.executable, "-m", "coatcheck", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_audit_of_a_sound_store_ends_with_0(coatcheck):
    answer = coatcheck("audit")
    assert (answer.returncode, answer.stdout.strip()) == (0, "0 violations")


def test_audit_names_what_is_violated_and_ends_with_1(coatcheck, redis):
    redis.zadd(keys.LEASES, {"c0000000000000000000000000": 1})
    answer = coatcheck("audit")
    assert answer.returncode == 1
    assert "c0000000000000000000000000" in answer.stdout
    assert "1 violation" in answer.stdout


def test_first_key_is_printed_once_and_works(coatcheck, redis, tmp_path):
    first, second = coatcheck("key"), coatcheck("key")
    key = first.stdout.strip()
    assert KeyCheck(redis).authenticate(key).account == "me"
    assert (tmp_path / "api-key").read_text().strip() == key
    assert (second.returncode, second.stdout) == (0, "")


def test_unknown_process_is_refused_with_the_names_there_are(coatcheck):
    answer = coatcheck("process", "worker")
    assert answer.returncode == 2
    assert "worker-predict" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_process_refuses_a_redis_that_would_lose_jobs(coatcheck, redis):
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        answer = coatcheck("process", "worker-io")
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert answer.returncode == 2
    assert "maxmemory-policy noeviction" in answer.stderr


def test_bad_setting_is_one_line_and_status_2(coatcheck):
    answer = coatcheck("audit", COATCHECK_PORT="many")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == ["coatcheck: COATCHECK_PORT is 'many'; expected a whole number"]


def test_redis_that_is_away_is_one_line_and_status_2(coatcheck):
    answer = coatcheck("audit", COATCHECK_REDIS_URL="unix:///nonexistent/redis.sock")
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("coatcheck: Redis does not answer as it should: ")
    assert "COATCHECK_HOME" not in line


def test_command_for_a_home_without_a_service_says_which_home_it_needs(coatcheck):
    answer = coatcheck("keys", "list", COATCHECK_REDIS_URL="")
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.endswith("; the service is to run, and COATCHECK_HOME to name the home it was started with")


def test_suspended_version_takes_jobs_again_when_resumed(coatcheck, redis):
    redis.hset(keys.GATES, f"version:{'a' * 64}", 1)
    first, second = coatcheck("resume-version", "a" * 64), coatcheck("resume-version", "a" * 64)
    assert first.returncode == 0
    assert "takes jobs again" in first.stdout
    assert (second.returncode, "was not suspended" in second.stdout) == (1, True)
    assert redis.hlen(keys.GATES) == 0
