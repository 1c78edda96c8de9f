"""The ceiling: the same Flask app calling ONNX Runtime in-process. No queue, nothing kept.

Its model is named in `bench.json` in the working folder.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
from flask import Flask, Response, request

from benchmarks.baseline.decode import decode_request

app = Flask(__name__)
_encode = msgspec.json.Encoder().encode

_options = ort.SessionOptions()
_options.intra_op_num_threads = 1
_options.inter_op_num_threads = 1
_session = ort.InferenceSession(
    json.loads(Path("bench.json").read_text())["model"], _options, providers=["CPUExecutionProvider"]
)


@app.get("/healthz")
def healthz() -> Response:
    """Answers when the process does."""
    return Response(b"{}", mimetype="application/json")


@app.post("/v1/predictions")
def create() -> Response:
    """Run the model and answer with the finished prediction."""
    image = decode_request(request.get_data())
    (probabilities,) = _session.run(None, {"image": np.array([image], dtype=np.float32)})
    row = probabilities[0].tolist()
    output = {
        "label": str(max(range(len(row)), key=row.__getitem__)),
        "probabilities": {str(index): value for index, value in enumerate(row)},
    }
    answer = {"id": secrets.token_hex(13), "status": "succeeded", "output": output}
    return Response(_encode(answer), 201, mimetype="application/json")
