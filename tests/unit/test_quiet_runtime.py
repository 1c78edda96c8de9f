"""ONNX Runtime as our processes start it: it tells nobody that it is used, and starts no thread to do so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coatcheck.service import _child_environment
from workers.imports import sandbox

SCRIPT = "import os, onnxruntime; print(len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1)"


@pytest.mark.parametrize("of", ["service", "closed process"])
def test_runtime_starts_no_thread_and_keeps_no_file_of_its_use(tmp_path, of):
    given = _child_environment({}) if of == "service" else sandbox._ENVIRONMENT
    environment = {**given, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(told.stdout) == 1
    assert list(tmp_path.iterdir()) == []


def test_operator_who_wants_the_news_sent_may_say_so():
    assert _child_environment({"ORT_DISABLE_TELEMETRY": "0"})["ORT_DISABLE_TELEMETRY"] == "0"
