"""The Celery task as people first write it: one task per prediction, session loaded on first use, result backend.

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

app = Celery("first", broker=CONFIG["redis_url"], backend=CONFIG["redis_url"])


@cache
def get_session() -> ort.InferenceSession:
    """The session of this process; one thread, as everywhere in the benchmark."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(CONFIG["model"], options, providers=["CPUExecutionProvider"])


@app.task
def predict(image: list[list[float]]) -> dict[str, Any]:
    """Label and probabilities of one 8 x 8 image."""
    pixels = np.array([image], dtype=np.float32)
    (probabilities,) = get_session().run(None, {"image": pixels})
    row = probabilities[0].tolist()
    return {
        "label": str(int(np.argmax(row))),
        "probabilities": {str(index): value for index, value in enumerate(row)},
    }
