"""The one small convolutional model every row uses, its inputs and its right answers.

Built with onnx.helper from seeded random weights: conv 32, dense 128, 10 classes, 8 x 8 pixels, softmax
inside. Knows neither our service nor the baselines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
SIDE = 8
CLASSES = tuple(str(digit) for digit in range(10))

_SEED = 7
_FILTERS = 32
_HIDDEN = 128
#: Answers this close together could swap with the batch size, so no such input is used.
_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One input and its right answer."""

    #: 8 x 8 pixels as nested JSON numbers.
    image_json: bytes
    label: str
    #: Probability of `label`.
    probability: float


def write_model(path: Path) -> None:
    """Write the ONNX file: float32 `image` [batch, 8, 8] to float32 `probabilities` [batch, 10]."""
    random = np.random.default_rng(_SEED)

    def weight(name: str, *shape: int, fan_in: int, gain: float = 2.0) -> onnx.TensorProto:
        values = random.normal(0.0, np.sqrt(gain / fan_in), shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    def integers(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype=np.int64), name)

    flat = _FILTERS * (SIDE // 2) ** 2
    initializers = [
        numpy_helper.from_array(np.array([1 / 16], dtype=np.float32), "scale"),
        integers("as_image", -1, 1, SIDE, SIDE),
        integers("as_row", -1, flat),
        weight("conv_w", _FILTERS, 1, 3, 3, fan_in=9),
        weight("hidden_w", flat, _HIDDEN, fan_in=flat),
        weight("last_w", _HIDDEN, len(CLASSES), fan_in=_HIDDEN, gain=60.0),
    ]
    nodes = [
        helper.make_node("Mul", [INPUT_NAME, "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "as_image"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "conv_w"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["conv_relu"]),
        helper.make_node("MaxPool", ["conv_relu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["pooled", "as_row"], ["row"]),
        helper.make_node("MatMul", ["row", "hidden_w"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["hidden_relu"]),
        helper.make_node("MatMul", ["hidden_relu", "last_w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [OUTPUT_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", SIDE, SIDE])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", len(CLASSES)])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def open_session(path: Path) -> ort.InferenceSession:
    """A session on one CPU thread, the same options as in every row."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_examples(path: Path, count: int = 64) -> tuple[Example, ...]:
    """`count` different inputs with answers that no rounding can change.

    Raises:
        ValueError: the model answers fewer than three classes, so that a wrong answer could pass for right.
    """
    images = _random_images(count * 8)
    (probabilities,) = open_session(path).run([OUTPUT_NAME], {INPUT_NAME: images})
    ordered = np.sort(probabilities, axis=1)
    labels = probabilities.argmax(axis=1)
    clear = _mixed(np.flatnonzero(ordered[:, -1] - ordered[:, -2] > _MARGIN), labels)[:count]
    if len(clear) < count or len(set(labels[clear].tolist())) < 3:
        raise ValueError("the benchmark's model answers nearly always the same")
    return tuple(
        Example(
            image_json=msgspec.json.encode(images[index].astype(float).round(4).tolist()),
            label=CLASSES[int(labels[index])],
            probability=float(probabilities[index, labels[index]]),
        )
        for index in clear
    )


def _mixed(indices: NDArray[np.int64], labels: NDArray[np.int64]) -> list[int]:
    """`indices` in an order that takes each label in turn as long as it lasts."""
    seen: Counter[int] = Counter()
    turns = []
    for index in indices.tolist():
        label = int(labels[index])
        turns.append((seen[label], index))
        seen[label] += 1
    return [index for _, index in sorted(turns)]


def _random_images(count: int) -> NDArray[np.float32]:
    """Images of strokes, like digits: about a third of the pixels dark, [count, 8, 8] from 0 to 16."""
    random = np.random.default_rng(_SEED + 1)
    dark = random.random((count, SIDE, SIDE)) < 0.35
    return (dark * random.integers(1, 161, (count, SIDE, SIDE)) / 10).astype(np.float32)
