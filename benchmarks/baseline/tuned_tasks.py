"""The same task tuned by documented settings alone: threads pool, prefetch, no chatter, one Redis reply fewer.

Knows nothing of HTTP. Its Redis and model are named in `bench.json` in the working folder.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from celery import Celery

CONFIG = json.loads(Path("bench.json").read_text())

app = Celery("tuned", broker=CONFIG["redis_url"], backend=CONFIG["redis_url"])
app.conf.update(
    broker_transport_options={"ack_emulation": False},
    task_acks_late=False,
    task_store_eager_result=False,
    task_track_started=False,
    result_expires=3600,
    result_extended=False,
    task_compression=None,
    worker_send_task_events=False,
    task_send_sent_event=False,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
)


@cache
def get_session() -> ort.InferenceSession:
    """The session of this process; one thread, as everywhere in the benchmark."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(CONFIG["model"], options, providers=["CPUExecutionProvider"])


@app.task(name="predict")
def predict(image: list[list[float]]) -> dict[str, Any]:
    """Label and probabilities of one 8 x 8 image."""
    (probabilities,) = get_session().run(None, {"image": np.array([image], dtype=np.float32)})
    row = probabilities[0].tolist()
    return {
        "label": str(max(range(len(row)), key=row.__getitem__)),
        "probabilities": {str(index): value for index, value in enumerate(row)},
    }
