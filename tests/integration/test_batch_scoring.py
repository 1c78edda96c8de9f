"""A file's rows scored in every format: the API's own answers, whatever the chunks, the slices and the neighbours."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from scoring import Scored, api_answers, dense, loaded, score

from coatcheck.errors import InvalidInput
from coatcheck.signature import (
    BooleanInput,
    CategoryInput,
    DateInput,
    ImageInput,
    NumberInput,
    SequenceInput,
    Signature,
    Tensor,
    TensorInput,
    TextInput,
)
from workers.batch import block as block_module

ROWS = 40
NAMES = ("x0", "x1", "x2")
FORMATS = ("csv", "tsv", "jsonl", "parquet", "npy")
SMALL = {"chunk_rows": 12, "group_rows": 4}


def numbers(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 3)).round(4)


def written(kind: str, values: np.ndarray, names: tuple[str, ...] = NAMES) -> bytes:
    """Rows as a file."""
    out = io.BytesIO()
    if kind == "npy":
        np.save(out, values)
    elif kind == "parquet":
        columns = {name: values[:, place] for place, name in enumerate(names)}
        pq.write_table(pa.table(columns), out, row_group_size=15)
    elif kind == "jsonl":
        out.write(msgspec.json.Encoder().encode_lines([dict(zip(names, row, strict=True)) for row in values.tolist()]))
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join(names), *(mark.join(map(repr, row)) for row in values.tolist())]
        out.write("\n".join(lines).encode())
    return out.getvalue()


def told(kind: str, output: bytes) -> list[dict[str, Any]]:
    """An output file's rows: `label` and the probabilities by class (no label in npy)."""
    if kind == "npy":
        return [{f"class {place}": value for place, value in enumerate(row)} for row in np.load(io.BytesIO(output))]
    if kind == "jsonl":
        rows = [json.loads(line)["prediction"] for line in output.splitlines()]
        return [{"label": row["label"], **row["probabilities"]} for row in rows]
    if kind == "parquet":
        rows = pq.read_table(io.BytesIO(output)).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO(output.decode()), delimiter="\t" if kind == "tsv" else ","))
    return [
        {name.removeprefix("probabilities."): value for name, value in row.items() if name not in (*NAMES, "row")}
        for row in rows
    ]


@pytest.fixture(scope="module")
def session():
    return dense(3, 4)


@pytest.mark.parametrize("given", FORMATS)
@pytest.mark.parametrize("wanted", FORMATS)
def test_every_format_in_and_out_tells_what_the_api_answers(session, given, wanted, monkeypatch):
    monkeypatch.setattr(block_module, "BINARY_ROWS", 8)
    values = numbers()
    scored = score(session, written(given, values), sizes=SMALL, output_format=wanted)
    assert scored.errors == []
    assert len(scored.results) > 1
    answers = api_answers(session, [dict(zip(NAMES, row, strict=True)) for row in values.tolist()])
    rows = told(wanted, scored.output)
    assert len(rows) == ROWS
    for row, answer in zip(rows, answers, strict=True):
        assert row.get("label", answer["label"]) == answer["label"]
        for name, probability in answer["probabilities"].items():
            assert float(row[name]) == pytest.approx(probability, abs=2e-6)


@pytest.mark.parametrize("given", FORMATS)
def test_slices_of_any_length_give_the_same_bytes(session, given, monkeypatch):
    content = written(given, numbers(300))
    whole = score(session, content, sizes=SMALL)
    monkeypatch.setattr("workers.turns.SLICE_S", 0.0)
    sliced = score(session, content, sizes=SMALL)
    assert sliced.slices > whole.slices
    assert sliced.output == whole.output


@pytest.mark.parametrize("given", ["csv", "jsonl", "parquet", "npy"])
def test_a_bad_row_changes_no_bit_of_the_others(session, given):
    values = numbers()
    whole = score(session, written(given, values), sizes={"chunk_rows": 12, "group_rows": 1})
    values[17, 1] = np.nan
    content = written(given, values)
    scored = score(session, content, sizes={"chunk_rows": 12, "group_rows": 1})
    assert scored.failed == {18: "missing_value"}
    expected = told(given, whole.output)
    rows = told(given, scored.output)
    if given == "npy":
        assert all(np.isnan(value) for value in rows.pop(17).values())
    else:
        assert len(rows) == ROWS - 1
    expected.pop(17)
    assert rows == expected
    (error,) = scored.errors
    assert error["column"] == "x1"
    assert (error["line"] is None) == (given in ("parquet", "npy"))


BAD_LINES = [
    ("abc,2,3", "invalid_input", "x0", "input.x0 is the text 'abc'; expected a finite number"),
    (",2,3", "missing_value", "x0", "input.x0 is null; expected a finite number"),
    ("1,NaN,3", "missing_value", "x1", None),
    ("1,2,inf", "missing_value", "x2", None),
    ("1,2", "ragged_row", None, "the row has 2 fields; expected 3"),
    ("1,2,3,4", "ragged_row", None, "the row has 4 fields; expected 3"),
    ("1,1e300,3", "invalid_input", "x1", None),
    ("1,0x10,3", "invalid_input", "x1", None),
    ("1,2_000,3", "invalid_input", "x1", None),
    ('1,2,"3', "quote_not_closed", None, None),
    ("1,true,3", "invalid_input", "x1", "input.x1 is the text 'true'; expected a finite number"),
    ("1,2," + "9" * (5 * 1024**2), "row_too_large", None, None),
]


@pytest.mark.parametrize(("line", "code", "column", "message"), BAD_LINES, ids=[bad[0][:12] for bad in BAD_LINES])
def test_a_bad_csv_line_fails_alone_and_says_why(session, line, code, column, message):
    good = [",".join(map(repr, row)) for row in numbers(600).tolist()]
    lines = [",".join(NAMES), *good[:30], "", line, *good[30:]]
    content = "\n".join(lines).encode()
    scored = score(session, content, sizes={"group_rows": 8, "chunk_bytes": 2 * 1024**2})
    (error,) = scored.errors
    assert (error["row"], error["line"], error["column"], error["code"]) == (31, 33, column, code)
    assert message is None or error["message"] == message
    assert len(error["text"].encode()) <= 1100
    assert len(told("csv", scored.output)) == 600
    assert sum(result.succeeded + result.failed for result in scored.results) == 601


BAD_OBJECTS = [
    (b'{"x0":1,"x1":2}', "missing_value", "x2"),
    (b'{"x0":1,"x1":null,"x2":3}', "missing_value", "x1"),
    (b'{"x0":1,"x1":"2","x2":3}', "invalid_input", "x1"),
    (b'{"x0":1,"x1":2,"x2":[3]}', "invalid_input", "x2"),
    (b'{"x0":1,"x1":2,"x2":1e999}', "not_json", None),
    (b'{"x0":1,"x1":2,"x2":3', "not_json", None),
    (b"[1,2,3]", "not_an_object", None),
    (b"null", "not_an_object", None),
    (b'{"x0":' + b"[" * 5000, "not_json", None),
]


@pytest.mark.parametrize(
    ("line", "code", "column"), BAD_OBJECTS, ids=[bad[0][:26].decode("latin1") for bad in BAD_OBJECTS]
)
def test_a_bad_json_line_fails_alone_and_says_why(session, line, code, column):
    good = written("jsonl", numbers(600)).splitlines()
    content = b"\n".join([*good[:30], b"", line, *good[30:]])
    scored = score(session, content, sizes={"group_rows": 8})
    (error,) = scored.errors
    assert (error["row"], error["line"]) == (31, 32)
    assert (error["code"], error["column"]) == (code, column)
    assert len(told("jsonl", scored.output)) == 600


@pytest.mark.parametrize("given", ["csv", "jsonl"])
def test_a_row_that_is_no_utf8_fails_alone(session, given):
    if given == "csv":
        lines = [b"x0,x1,x2,note", *[b"1,2,3,\xc3\xa9"] * 40]
        bad = b"1,2,3,\xff"
    else:
        lines = [b'{"x0":1,"x1":2,"x2":3,"note":"\xc3\xa9"}'] * 40
        bad = b'{"x0":1,"x1":2,"x2":3,"note":"\xff"}'
    scored = score(session, b"\n".join([*lines, b"", bad, lines[-1]]), sizes=SMALL)
    (error,) = scored.errors
    assert (error["row"], error["code"]) == (41, "bad_encoding")
    assert error["line"] == len(lines) + 2
    assert scored.results[-1].succeeded == 5


def test_lines_are_counted_in_the_file_as_it_was_uploaded(session):
    content = "x0,x1,x2,name\n\n1,2,3,数据分析\n\n\n1,?,3,数据分析\n".encode("gb18030")
    (error,) = score(session, content).errors
    assert (error["row"], error["line"], error["text"]) == (2, 6, "1,?,3,数据分析")


def test_parquet_cells_that_do_not_fit_fail_alone(session):
    table = pa.table(
        {"x0": [1.0, None, 3.0, 4.0], "x1": pa.array([1, 2, 3, 4], pa.int8()), "x2": [1.0, 1.0, 1e300, float("inf")]}
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    scored = score(session, out.getvalue())
    assert scored.failed == {2: "missing_value", 3: "invalid_input", 4: "missing_value"}
    text = pa.table({"x0": [1.0], "x1": ["2"], "x2": [True]})
    out = io.BytesIO()
    pq.write_table(text, out)
    assert score(session, out.getvalue()).errors[0]["message"] == "input.x1 is the text '2'; expected a finite number"


def test_joined_columns_keep_their_text_and_their_order(session):
    content = b'id,x2,x0,"a ""b""",x1\r\n007,1.50,2,"x,\ny",3\r\n8, 1,+2,,3e0\r\n'
    scored = score(session, content)
    rows = list(csv.reader(io.StringIO(scored.output.decode(), newline="")))
    assert rows[0][:6] == ["id", "x2", "x0", 'a "b"', "x1", "label"]
    assert rows[1][:5] == ["007", "1.50", "2", "x,\ny", "3"]
    assert rows[2][:5] == ["8", " 1", "+2", "", "3e0"]
    assert scored.errors == []


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"join": False}, ["row"]),
        ({"include": ("note", "x1")}, ["x1", "note"]),
        ({"exclude": ("x0", "x2")}, ["x1", "note"]),
        ({}, ["x0", "x1", "x2", "note"]),
    ],
    ids=["no join", "include", "exclude", "all"],
)
@pytest.mark.parametrize("wanted", ["csv", "jsonl", "parquet"])
def test_columns_kept_are_those_asked_for(session, given, header, wanted):
    content = b"x0,x1,x2,note\n1,2,3,a\n1,x,3,b\n1,2,3,c\n"
    output = score(session, content, output_format=wanted, **given).output
    if wanted == "jsonl":
        first, second = (json.loads(line) for line in output.splitlines())
        assert list(first) == [*header, "prediction"]
        assert second.get("row", 3) == 3
    elif wanted == "parquet":
        table = pq.read_table(io.BytesIO(output))
        assert table.column_names[: len(header) + 1] == [*header, "label"]
        assert table.num_rows == 2
    else:
        rows = list(csv.reader(io.StringIO(output.decode())))
        assert rows[0][: len(header) + 1] == [*header, "label"]
        assert rows[2][0] == {"row": "3", "x1": "2", "x0": "1"}[header[0]]


def test_a_name_the_input_has_gets_a_prefix(session):
    content = b"x0,x1,x2,label,prediction.label\n1,2,3,mine,too\n"
    header = score(session, content).output.splitlines()[0].decode().split(",")
    assert header[3:6] == ["label", "prediction.label", "prediction.prediction.label"]
    line = b'{"x0":1,"x1":2,"x2":3,"prediction":"mine"}\n'
    row = json.loads(score(session, line).output)
    assert row["prediction"] == "mine"
    assert row["prediction.prediction"]["label"].startswith("class")


@pytest.mark.parametrize(
    "content",
    [
        "﻿x0,x1,x2,name\n1,2,3,日本語\n".encode(),
        "x0;x1;x2;name\n1;2;3;日本語\n".encode(),
        ("x0,x1,x2,name\n" + "1,2,3,数据分析结果\n" * 30).encode("gb18030"),
        b"\nx0|x1|x2|name\n1|2|3|a\n\n\n1|2|3|b\n",
    ],
    ids=["mark", "semicolon", "gb18030", "bar"],
)
def test_text_in_other_clothes_is_read(session, content):
    scored = score(session, content, sizes={"chunk_rows": 8, "group_rows": 4})
    assert scored.errors == []
    rows = list(csv.reader(io.StringIO(scored.output.decode()), delimiter=scored.plan.form.delimiter))
    assert rows[0][3] == "name"
    assert rows[1][3] in ("日本語", "数据分析结果", "a")


KINDS = (
    NumberInput(name="n", required=False),
    CategoryInput(name="c", categories=("red", "green")),
    CategoryInput(name="o", categories=("a",), open=True, required=False),
    BooleanInput(name="b"),
    DateInput(name="d", required=False),
)
KIND_ROWS: list[dict[str, Any]] = [
    {"n": 1.5, "c": "red", "o": "a", "b": True, "d": "2024-01-31"},
    {"n": None, "c": "green", "o": "zebra", "b": False, "d": None},
    {"n": 3, "c": "red", "o": None, "b": True, "d": "2024-01-31T12:30:00"},
]


@pytest.mark.parametrize("given", ["csv", "jsonl", "parquet"])
def test_columns_of_every_kind_are_the_apis_arrays(given):
    session = dense(KINDS, 3)
    columns = {item.name: [row[item.name] for row in KIND_ROWS] for item in KINDS}
    content = io.BytesIO()
    if given == "parquet":
        pq.write_table(pa.table(columns), content)
    elif given == "jsonl":
        content.write(msgspec.json.Encoder().encode_lines([*KIND_ROWS, KIND_ROWS[0] | {"c": "blue"}]))
    else:
        cells = [["" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in row.values()]
                 for row in [*KIND_ROWS, KIND_ROWS[0] | {"c": "blue"}]]  # fmt: skip
        content.write(
            "\n".join([",".join(columns), *map(",".join, cells)]).replace("2024-01-31,", "2024-01-31 ,").encode()
        )
    scored = score(session, content.getvalue(), output_format="jsonl")
    assert [json.loads(line)["prediction"] for line in scored.output.splitlines()] == api_answers(session, KIND_ROWS)
    if given != "parquet":
        assert scored.failed == {4: "invalid_input"}
        assert scored.errors[0]["message"] == "input.c is the text 'blue'; expected one of 'red', 'green'"


TASKS: dict[str, dict[str, Any]] = {
    "multi_label": {"task": "multi_label", "activation": "Sigmoid", "threshold": 0.6},
    "regression": {"task": "regression", "activation": "Identity", "classes": (), "targets": ("a", "b", "c")},
    "clustering": {"task": "clustering", "activation": "Abs", "classes": ()},
    "raw": {"task": "raw", "activation": "Tanh", "classes": (), "targets": ()},
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers_as_the_api_does(task):
    session = dense(3, 3, **TASKS[task])
    values = numbers(20)
    rows = [dict(zip(NAMES, row, strict=True)) for row in values.tolist()]
    answers = api_answers(session, rows)
    content = written("csv", values)
    lines = score(session, content, output_format="jsonl").output.splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == answers
    table = pq.read_table(io.BytesIO(score(session, content, output_format="parquet").output)).to_pylist()
    assert [flat(row) for row in table] == [flattened(answer) for answer in answers]
    header = score(session, content).output.splitlines()[0].decode().split(",")
    assert header == [*NAMES, *flattened(answers[0])]


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({"task": "regression", "activation": "Identity", "classes": ()}, 1),
        ({"task": "anomaly", "activation": "Abs", "classes": (), "threshold": 1.0}, 1),
    ],
    ids=["regression", "anomaly"],
)
def test_tasks_of_one_number_answer_as_the_api_does(changes, outputs):
    session = dense(3, outputs, **changes)
    values = numbers(20)
    answers = api_answers(session, [dict(zip(NAMES, row, strict=True)) for row in values.tolist()])
    table = pq.read_table(
        io.BytesIO(score(session, written("csv", values), output_format="parquet").output)
    ).to_pylist()
    assert [flat(row) for row in table] == [flattened(answer) for answer in answers]


def flat(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NAMES}


def flattened(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer's members with dots; lists of numbers by position, lists of words as JSON."""
    found: dict[str, Any] = {}
    for name, value in answer.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": number for inner, number in value.items()}
        elif isinstance(value, list) and name != "labels":
            found |= {f"{name}.{place}": number for place, number in enumerate(value)}
        else:
            found[name] = json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
    return found


def summing(item: Any, kind: int, shape: list[Any]) -> Any:
    """A version of one input that is not a column: the sum of what the graph gets."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["f"], ["n"]),
        helper.make_node("Constant", [], ["z"], value_float=0.0),
        helper.make_node("Where", ["n", "z", "f"], ["k"]),
        helper.make_node("Flatten", ["k"], ["w"]),
        helper.make_node("ReduceSum", ["w", "axes"], ["y"]),
    ]
    nodes.insert(0, helper.make_node("Constant", [], ["axes"], value_ints=[1]))
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    told_shape = tuple(size if isinstance(size, int) else -1 for size in ["n", *shape])
    datatype = {int(TensorProto.FLOAT): "FP32", int(TensorProto.INT64): "INT64"}[kind]
    signature = Signature(
        task="regression",
        inputs=(item,),
        graph_inputs=(Tensor(name="x", datatype=datatype, shape=told_shape),),
        graph_outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
        targets=("y",),
    )
    return loaded(graph, signature)


def values_of(scored: Scored) -> list[float]:
    return [json.loads(line)["prediction"]["value"] for line in scored.output.splitlines()]


def test_texts_are_scored_from_cells_and_members():
    session = summing(TextInput(name="t", max_length=9), TensorProto.INT64, ["length"])
    texts = ["abc", "", 'a, "b"', "é" * 20]
    out = io.StringIO()
    csv.writer(out).writerows([["t", "note"], *([text, "x"] for text in texts)])
    answers = [answer["value"] for answer in api_answers(session, [{"t": text} for text in texts])]
    assert values_of(score(session, out.getvalue().encode(), output_format="jsonl")) == answers
    lines = msgspec.json.Encoder().encode_lines([*({"t": text} for text in texts), {"t": 5}])
    scored = score(session, lines)
    assert values_of(scored) == answers
    assert scored.failed == {5: "invalid_input"}


def test_lists_in_cells_are_sequences_and_tensors():
    sequence = summing(SequenceInput(name="s", features=1, max_length=4), TensorProto.FLOAT, ["length", 1])
    content = b's\n"[1,2,3]"\n"[5]"\n[1\n"[1,""a""]"\n'
    scored = score(sequence, content, output_format="jsonl")
    assert values_of(scored) == [6.0, 5.0]
    assert scored.failed == {3: "invalid_input", 4: "invalid_input"}
    tensor = summing(TensorInput(name="x", datatype="FP32", shape=(2, 2)), TensorProto.FLOAT, [2, 2])
    out = io.BytesIO()
    pq.write_table(pa.table({"x": [[[1.0, 2.0], [3.0, 4.0]], [[1.0], [2.0]]]}), out)
    scored = score(tensor, out.getvalue(), output_format="jsonl")
    assert values_of(scored) == [10.0]
    assert scored.failed == {2: "invalid_input"}


@pytest.mark.parametrize("given", ["csv", "parquet", "npy", "jsonl"])
def test_an_image_is_its_pixels_in_columns_or_its_array(given):
    session = summing(ImageInput(name="image", channels=1, height=2, width=2), TensorProto.FLOAT, [1, 2, 2])
    pixels = np.arange(12.0).reshape(3, 4)
    names = ("p0", "p1", "p2", "p3")
    if given == "jsonl":
        content = msgspec.json.Encoder().encode_lines([{"image": row.reshape(2, 2).tolist()} for row in pixels])
    else:
        content = written(given, pixels.reshape(3, 2, 2) if given == "npy" else pixels, names)
    if given == "csv":
        content = b"y," + content.replace(b"\n", b"\n7,") + b"\n7,1,,3,4\n7,1,a,3,4"
    scored = score(session, content, output_format="jsonl")
    assert values_of(scored) == [6.0, 22.0, 38.0]
    assert scored.failed == ({4: "missing_value", 5: "invalid_input"} if given == "csv" else {})


def test_rows_that_the_graph_refuses_fail_alone(session):
    from scoring import loaded as load

    table = helper.make_tensor("table", TensorProto.FLOAT, [100], [10.0 * i for i in range(100)])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "i"], ["y"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [table],
    )
    signature = Signature(
        task="regression",
        inputs=(NumberInput(name="x"),),
        graph_inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 1)),),
        graph_outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
        targets=("y",),
    )
    content = "x\n" + "\n".join(str(500 if number in (3, 40) else number) for number in range(60))
    scored = score(load(graph, signature), content.encode(), sizes={"group_rows": 16})
    assert scored.failed == {4: "run_failed", 41: "run_failed"}
    assert scored.output.count(b"\n") == 59


def test_no_row_ever_gets_the_prediction_of_another(session):
    content = b"x0,x1,x2\n1,2,3\n\r\r\n9,9,9\r8,8,8\n3,4,5\n"
    scored = score(session, content)
    answers = api_answers(session, [{"x0": 1, "x1": 2, "x2": 3}, {"x0": 3, "x1": 4, "x2": 5}])
    rows = list(csv.DictReader(io.StringIO(scored.output.decode())))
    assert [row["x0"] for row in rows] == ["1", "3"]
    for row, answer in zip(rows, answers, strict=True):
        assert row["label"] == answer["label"]
        assert float(row["probabilities.class 0"]) == answer["probabilities"]["class 0"]
    assert set(scored.failed.values()) == {"broken_row", "ragged_row"} or len(scored.failed) == 2


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("wanted", ["csv", "jsonl"])
def test_quote_left_open_in_the_last_cell_of_the_file_is_a_bad_row(session, end, wanted):
    scored = score(session, b'x0,x1,x2\n1,2,3\n4,5,"6' + end, output_format=wanted)
    assert scored.failed == {2: "quote_not_closed"}
    assert len(told(wanted, scored.output)) == 1


@pytest.mark.parametrize(
    ("header", "encoding"), [(b"x0,x1,x2,\xff\xfe\xc3\xa9", "utf-8"), (b"x0,x1,x2,\x81\x8d z", "cp1252")]
)
def test_broken_bytes_in_the_header_shift_no_row(session, header, encoding):
    text = "\u00e9".encode(encoding) * 20
    scored = score(session, header + b"\n1,2,3," + text + b"\n4,5,6," + text + b"\n")
    assert [row["x0"] for row in csv.DictReader(io.StringIO(scored.output.decode()))] == ["1", "4"]


def test_prediction_never_stands_twice_in_a_json_line(session):
    line = b'{"x0":1,"x1":2,"x2":3,"\\u0070rediction":5}\n{"x0":1,"x1":2,"x2":3 }\n'
    first, second = score(session, line).output.splitlines()
    pairs = json.loads(first, object_pairs_hook=list)
    assert [name for name, _ in pairs] == ["x0", "x1", "x2", "prediction", "prediction.prediction"]
    assert list(json.loads(second)) == ["x0", "x1", "x2", "prediction"]


@pytest.mark.parametrize("given", FORMATS)
def test_only_the_rows_asked_for_are_scored(session, given):
    values = numbers()
    values[4, 0] = np.nan
    whole = told(given, score(session, written(given, values), sizes={"group_rows": 1}).output)
    only = (2, 5, 17, 40)
    scored = score(session, written(given, values), sizes=SMALL | {"group_rows": 1}, only=only)
    assert scored.failed == {5: "missing_value"}
    assert sum(result.succeeded + result.failed for result in scored.results) == 4
    rows = told(given, scored.output)
    if given == "npy":
        assert np.isnan(list(rows.pop(1).values())).all()
        assert rows == [whole[1], whole[16], whole[39]]
    else:
        assert rows == [whole[1], whole[15], whole[38]]


def test_a_file_of_bad_rows_is_told_in_short_slices(session, monkeypatch):
    monkeypatch.setattr("workers.turns.SLICE_S", 0.0)
    content = b"x0,x1,x2\n" + b"a,b,c\n" * 1500
    scored = score(session, content, sizes={"group_rows": 32})
    assert [error["line"] for error in scored.errors] == list(range(2, 1502))
    assert scored.slices > 1500 // 32


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4', ", b"(", b"[" * 3000, b"{'descr': [], 'fortran_order': 0, 'shape': (1,)}"]
)
def test_array_headers_that_make_no_sense_are_refused(session, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with pytest.raises(InvalidInput, match="NPY"):
        score(session, content)


def test_cells_read_one_way_whatever_stands_in_other_rows(session):
    cells = [
        "1",
        " 2",
        "+3",
        "4.",
        ".5",
        "1e3",
        "-0",
        "007",
        "1.7976931348623157",
        "3.4028234e37",
        "0.1",
        "NA",
        " NaN ",
    ]
    lines = [f"{cell},1,{cell}" for cell in cells]
    plain = score(session, "\n".join(["x0,x1,x2", *lines[:-2]]).encode(), sizes={"group_rows": 1})
    beside = score(session, "\n".join(["x0,x1,x2", *lines, "oops,1,2", "1,2"]).encode(), sizes={"group_rows": 1})
    assert beside.output == plain.output
    assert list(beside.failed) == [12, 13, 14, 15]


@pytest.mark.parametrize("given", ["csv", "jsonl", "parquet"])
def test_columns_that_may_be_missing_may_be_missing_from_the_file(given):
    session = dense(KINDS, 3)
    rows = [{"c": "red", "b": True, "note": "x"}, {"c": "green", "b": False, "note": "y"}]
    content = io.BytesIO()
    if given == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), content)
    elif given == "jsonl":
        content.write(msgspec.json.Encoder().encode_lines(rows))
    else:
        content.write(b"c,b,note\nred,true,x\ngreen,false,y\n")
    scored = score(session, content.getvalue(), output_format="jsonl", missing_columns="allow")
    answers = api_answers(session, [{"c": row["c"], "b": row["b"]} for row in rows])
    assert [json.loads(line)["prediction"] for line in scored.output.splitlines()] == answers
