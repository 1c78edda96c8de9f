"""Does the ONNX file compute what the network computes? Runs both on the same rows at several batch sizes.

Knows ONNX Runtime's CPU provider only: the gate is about the file, not about hardware.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

#: Batch sizes tried: alone, the smallest batch, an odd one, a full micro-batch.
BATCH_SIZES = (1, 2, 7, 64)
#: Largest difference accepted, absolute and relative to the larger magnitude, by the outputs' datatype.
TOLERANCES: dict[str, tuple[float, float]] = {
    "float64": (1e-8, 1e-7),
    "float32": (1e-4, 1e-4),
    "float16": (1e-2, 1e-2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The comparison's outcome."""

    passed: bool
    batch_sizes: tuple[int, ...]
    rows: int
    max_difference: float
    absolute_tolerance: float
    relative_tolerance: float
    seconds: float
    #: Why it did not pass; empty if it did.
    reason: str = ""


def check_parity(
    network: nn.Module,
    onnx_path: Path,
    rows: npt.NDArray[np.float32],
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare outputs on `rows` [N, ...] (repeated where a batch size needs more).

    A difference is accepted if it is within the absolute or the relative tolerance of its datatype.
    """
    started = time.monotonic()
    network.eval()
    session = _session(onnx_path)
    worst, reason, dtype = 0.0, "", "float32"
    for size in batch_sizes:
        chosen = np.ascontiguousarray(np.resize(rows, (size, *rows.shape[1:])) if len(rows) < size else rows[:size])
        expected = _run_network(network, chosen)
        found: list[npt.NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: chosen})
        for want, got in zip(expected, found, strict=True):
            dtype = str(want.dtype)
            absolute, relative = TOLERANCES[dtype]
            if want.shape != got.shape or str(got.dtype) != dtype:
                reason = reason or f"batch {size}: {got.dtype}{got.shape} instead of {dtype}{want.shape}"
                continue
            if not (np.isfinite(got).all() and np.isfinite(want).all()):
                reason = reason or f"batch {size}: outputs that are not finite"
                continue
            difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
            worst = max(worst, float(difference.max(initial=0.0)))
            allowed = np.maximum(absolute, relative * np.maximum(np.abs(got), np.abs(want)))
            if bool((difference > allowed).any()):
                reason = reason or f"batch {size}: differs by {difference.max():.3g}"
    absolute, relative = TOLERANCES[dtype]
    return ParityReport(
        passed=not reason,
        batch_sizes=tuple(batch_sizes),
        rows=len(rows),
        max_difference=worst,
        absolute_tolerance=absolute,
        relative_tolerance=relative,
        seconds=time.monotonic() - started,
        reason=reason,
    )


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def _run_network(network: nn.Module, rows: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    with torch.inference_mode():
        outputs = network(torch.from_numpy(rows))
    tensors = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [tensor.cpu().numpy() for tensor in tensors]
