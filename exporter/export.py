"""A PyTorch network -> one ONNX file with a free batch size, checked, with metadata inside.

Knows networks of one input tensor whose first axis is the batch. Does not know what the outputs mean. Whether
the file computes what the network computes is for `exporter/parity.py` to say.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn


class ExportFailed(Exception):
    """PyTorch cannot write this network as ONNX, or what it wrote is not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    bytes: int
    sha256: str
    opset: int
    seconds: float


def export(
    network: nn.Module,
    example: torch.Tensor,
    out_path: Path,
    *,
    input_name: str,
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    opset: int = 20,
) -> ExportReport:
    """Write `network` to `out_path`; `example` is one batch [N, ...] with N >= 2 (a batch of 1 would be fixed).

    The file appears whole or not at all. The network is left in evaluation mode.

    Raises:
        ExportFailed: with the first line of the cause.
    """
    started = time.monotonic()
    network.eval()
    example = torch.cat([example, example]) if len(example) < 2 else example[:2]
    try:
        model = _to_onnx(network, example, input_name, output_names, opset)
        for key, value in sorted((metadata or {}).items()):
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        first = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise ExportFailed(f"{type(exc).__name__}: {first}") from exc
    data = model.SerializeToString(deterministic=True)
    _write(out_path, data)
    return ExportReport(
        path=out_path,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        opset=opset,
        seconds=time.monotonic() - started,
    )


def _to_onnx(
    network: nn.Module, example: torch.Tensor, input_name: str, output_names: Sequence[str], opset: int
) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[input_name],
                output_names=list(output_names),
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=({0: batch},),
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:  # source lines and file paths of the exporting machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return model


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
