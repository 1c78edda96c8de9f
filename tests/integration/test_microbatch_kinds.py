"""Micro-batches of texts and sequences of different lengths, of graphs with several inputs, and of those that cannot
take rows of several predictions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from coatcheck.claims import Claimed
from coatcheck.jobs import Status
from coatcheck.signature import (
    CategoryInput,
    NumberInput,
    SequenceInput,
    Signature,
    Tensor,
    TensorInput,
    TextInput,
)
from workers.microbatch import BatchRunner
from workers.sessions import CPU, LoadedSession, open_session

ONNX_TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}


def tensor(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape)


def session_of(
    inputs: tuple, taken: tuple[Tensor, ...], given: tuple[Tensor, ...], nodes: list, *, task="raw", **weights
) -> LoadedSession:
    def value(one: Tensor) -> Any:
        shape = [f"{one.name}{axis}" if size < 0 else size for axis, size in enumerate(one.shape)]
        return helper.make_tensor_value_info(one.name, ONNX_TYPES[one.datatype], shape)

    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [value(one) for one in taken], [value(one) for one in given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    signature = Signature(task=task, inputs=inputs, graph_inputs=taken, graph_outputs=given)
    return LoadedSession(
        version="v" * 64,
        signature=signature,
        provider=CPU,
        cost_bytes=0,
        session=open_session(model.SerializeToString(), CPU, 1),
    )


def text_length() -> LoadedSession:
    """How many ids of a text are not padding."""
    nodes = [
        helper.make_node("Cast", ["x"], ["there"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["there"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["y"], keepdims=1),
    ]
    return session_of(
        (TextInput(name="text", max_length=8),),
        (tensor("x", (-1, -1), "INT64"),),
        (tensor("y", (-1, 1)),),
        nodes,
        task="regression",
        axis=np.array([1]),
    )


def series_sum() -> LoadedSession:
    """Sum of a sequence's numbers, padding left out."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["gone"]),
        helper.make_node("Where", ["gone", "zero", "x"], ["there"]),
        helper.make_node("ReduceSum", ["there", "axes"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "one"], ["y"]),
    ]
    return session_of(
        (SequenceInput(name="s", features=1, max_length=8),),
        (tensor("x", (-1, -1, 1)),),
        (tensor("y", (-1, 1)),),
        nodes,
        task="regression",
        zero=np.zeros((), np.float32),
        axes=np.array([1, 2]),
        one=np.array([1]),
    )


def two_inputs() -> LoadedSession:
    """y = a + b over rows; a has two numbers, b one."""
    return session_of(
        (
            TensorInput(name="b", datatype="FP32", shape=(1,)),
            TensorInput(name="a", datatype="FP32", shape=(2,)),
        ),
        (tensor("a", (-1, 2)), tensor("b", (-1, 1))),
        (tensor("y", (-1, 2)),),
        [helper.make_node("Add", ["a", "b"], ["y"])],
    )


def free_lengths() -> LoadedSession:
    """y = 2 x over any length: rows of different lengths cannot share a run."""
    return session_of(
        (TensorInput(name="x", datatype="FP32", shape=(-1,)),),
        (tensor("x", (-1, -1)),),
        (tensor("y", (-1, -1)),),
        [helper.make_node("Add", ["x", "x"], ["y"])],
    )


def no_batch() -> LoadedSession:
    """y = state + step, whole: nothing of it is a batch. A step of 0 divides by zero length and fails."""
    nodes = [
        helper.make_node("Gather", ["table", "step"], ["found"]),
        helper.make_node("Add", ["state", "found"], ["y"]),
    ]
    return session_of(
        (
            TensorInput(name="state", datatype="FP32", shape=(2, 1)),
            TensorInput(name="step", datatype="INT64", shape=()),
        ),
        (tensor("state", (2, 1)), tensor("step", (), "INT64")),
        (tensor("y", (2, 1)),),
        nodes,
        table=np.array([10, 20], np.float32),
    )


def batch_of_one() -> LoadedSession:
    """y = 2 x, for one row at a time."""
    return session_of(
        (TensorInput(name="x", datatype="FP32", shape=(2,)),),
        (tensor("x", (1, 2)),),
        (tensor("y", (1, 2)),),
        [helper.make_node("Add", ["x", "x"], ["y"])],
    )


def wider_with_its_value() -> LoadedSession:
    """y = x, as often as the largest x says; the signature says once."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["times", "zero"], ["columns"]),
        helper.make_node("Concat", ["one", "columns"], ["repeats"], axis=0),
        helper.make_node("Tile", ["x", "repeats"], ["y"]),
    ]
    return session_of(
        (NumberInput(name="x"),),
        (tensor("x", (-1, 1)),),
        (tensor("y", (-1, 1)),),
        nodes,
        task="regression",
        zero=np.array([0]),
        one=np.array([1]),
    )


def strings() -> LoadedSession:
    """The word it was given."""
    return session_of(
        (TensorInput(name="x", datatype="BYTES", shape=()),),
        (tensor("x", (-1,), "BYTES"),),
        (tensor("y", (-1,), "BYTES"),),
        [helper.make_node("Identity", ["x"], ["y"])],
    )


def table() -> LoadedSession:
    """The columns as the graph gets them."""
    return session_of(
        (
            NumberInput(name="n", required=False),
            CategoryInput(name="c", categories=("p",), open=True, required=False),
        ),
        (tensor("x", (-1, 2)),),
        (tensor("y", (-1, 2)),),
        [helper.make_node("Identity", ["x"], ["y"])],
    )


def no_files(name: str) -> bytes:
    raise AssertionError(f"nobody asked for the file {name}")


def answers(session: LoadedSession, *inputs: Any) -> tuple[list[Any], int]:
    """Outputs in the order of the inputs (None: it failed), and how many runs they took."""
    batches = BatchRunner(read_input=lambda job: job.input, read_file=no_files, store_output=lambda _job, _out: "")
    jobs = [
        Claimed(id=str(n), token=f"1:{n}", input=json.dumps(one).encode(), input_ref="", rows=1, limit_ms=0, attempt=1)
        for n, one in enumerate(inputs)
    ]
    done = {completion.id: completion for completion in batches.run(session, jobs)}
    found = [done[job.id] for job in jobs]
    return [json.loads(one.output) if one.status is Status.SUCCEEDED else None for one in found], batches.runs


def test_texts_of_different_lengths_share_a_run():
    texts = ["", "ab", "天", "longer than eight", "abc"]
    found, runs = answers(text_length(), *({"text": text} for text in texts))
    assert [one["value"] for one in found] == [0, 2, 3, 8, 3]
    assert runs == 1


def test_sequences_of_different_lengths_share_a_run_also_after_one_was_refused():
    found, runs = answers(series_sum(), {"s": [1, 2, 3]}, {"s": []}, {"instances": [{"s": [4]}, {"s": [5, 6]}]})
    assert found == [{"value": 6.0}, None, [{"value": 4.0}, {"value": 11.0}]]
    assert runs == 1


def test_several_inputs_of_several_predictions_share_a_run():
    found, runs = answers(two_inputs(), {"a": [1, 2], "b": [10]}, {"instances": [{"a": [3, 4], "b": [20]}] * 2})
    assert found == [{"y": [11.0, 12.0]}, [{"y": [23.0, 24.0]}] * 2]
    assert runs == 1


def test_missing_and_unseen_values_reach_the_graph():
    found, runs = answers(table(), {"n": 5, "c": "p"}, {"n": None}, {"c": "never seen"})
    assert found == [{"y": [5.0, 0.0]}, {"y": [None, -1.0]}, {"y": [None, -1.0]}]
    assert runs == 1


@pytest.mark.parametrize(
    ("session", "inputs", "outputs"),
    [
        (
            free_lengths(),
            [{"x": [1]}, {"instances": [{"x": [1, 2]}, {"x": [1, 2, 3]}]}],
            [{"y": [2.0]}, [{"y": [2.0, 4.0]}, {"y": [2.0, 4.0, 6.0]}]],
        ),
        (
            no_batch(),
            [{"state": [[1], [2]], "step": 0}, {"state": [[1], [2]], "step": 9}, {"state": [[1], [2]], "step": 1}],
            [{"y": [[11.0], [12.0]]}, None, {"y": [[21.0], [22.0]]}],
        ),
        (batch_of_one(), [{"x": [1, 2]}, {"x": [3, 4]}], [{"y": [2.0, 4.0]}, {"y": [6.0, 8.0]}]),
        (
            strings(),
            [{"x": "天"}, {"x": ""}],
            [{"y": "天"}, {"y": ""}],
        ),
    ],
    ids=["free lengths", "no batch axis", "a batch of one", "strings"],
)
def test_rows_that_cannot_run_together_run_alone_and_fail_alone(session, inputs, outputs):
    found, _ = answers(session, *inputs)
    assert found == outputs


def test_output_that_is_not_as_the_signature_says_fails_only_its_own_prediction():
    found, _ = answers(wider_with_its_value(), {"x": 1}, {"x": 3}, {"x": 1})
    assert found == [{"value": 1.0}, None, {"value": 1.0}]
