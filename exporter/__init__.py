"""A library that turns a PyTorch network into a verified ONNX file. Knows no jobs, no queue and no HTTP."""

import os

# ONNX Runtime looks for it when it is first imported; whoever wants news of its use sent sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - no setting of ours
