"""What a version accepts, refuses and says about it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import time

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coatcheck.errors import InvalidInput, UnknownField
from coatcheck.signature import BooleanInput, CategoryInput, ImageInput, NumberInput, Signature, Tensor
from coatcheck.signature_check import validate_input
from coatcheck.signature_schema import input_schema, output_schema
from coatcheck.signature_values import file_id, nested_shape

BASE = "http://127.0.0.1:8000"


def signature(*inputs, task="classification", classes=("no", "yes"), targets=("y",)) -> Signature:
    return Signature(
        task=task,
        inputs=tuple(inputs),
        graph_inputs=(Tensor(name="x", datatype="FP32", shape=(-1, len(inputs))),),
        graph_outputs=(Tensor(name="probabilities", datatype="FP32", shape=(-1, 2)),),
        classes=classes if task == "classification" else (),
        targets=targets,
    )


DIGITS = signature(ImageInput(name="image", channels=1, height=8, width=8, high=16.0))
PHOTO = signature(ImageInput(name="image", channels=3, height=2, width=4))
TABLE = signature(
    NumberInput(name="petal length (cm)"),
    CategoryInput(name="kind", categories=("blue", "red")),
    BooleanInput(name="wild"),
)
ROW = {"petal length (cm)": 1.5, "kind": "red", "wild": True}


def digit(value: float = 1.0) -> list[list[float]]:
    return [[value] * 8 for _ in range(8)]


def data_uri(size=(8, 8), kind="PNG") -> str:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("one", [DIGITS, PHOTO, TABLE])
def test_a_signature_survives_json(one):
    assert Signature.from_json(one.to_json()) == one
    assert Signature.from_json(one.to_json()).to_json() == one.to_json()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"task": "magic"}'])
def test_what_is_no_signature_is_refused(text):
    with pytest.raises(InvalidInput):
        Signature.from_json(text)


@pytest.mark.parametrize(
    ("one", "value", "rows", "many"),
    [
        (DIGITS, {"image": digit()}, 1, False),
        (DIGITS, {"image": [[1] * 8 for _ in range(8)]}, 1, False),
        (DIGITS, {"image": [[[1.0]] * 8 for _ in range(8)]}, 1, False),
        (DIGITS, {"instances": [{"image": digit()}, {"image": digit(0)}]}, 2, True),
        (DIGITS, {"image": data_uri()}, 1, False),
        (DIGITS, {"image": data_uri((300, 200), "JPEG")}, 1, False),
        (DIGITS, {"image": data_uri((30, 20), "WEBP")}, 1, False),
        (PHOTO, {"image": [[[1, 2, 3]] * 4] * 2}, 1, False),
        (PHOTO, {"image": [[[1] * 4] * 2] * 3}, 1, False),
        (TABLE, ROW, 1, False),
        (TABLE, {"instances": [ROW] * 3}, 3, True),
    ],
)
def test_inputs_that_fit_are_taken_as_json_and_as_objects(one, value, rows, many):
    for raw in (json.dumps(value).encode(), value):
        parsed = validate_input(one, raw)
        assert (parsed.rows, parsed.many, len(parsed.values)) == (rows, many, rows)


def test_values_come_in_the_order_of_the_signature():
    turned = dict(reversed(ROW.items()))
    assert validate_input(TABLE, json.dumps(turned).encode()).values == [(1.5, "red", True)]


@pytest.mark.parametrize(
    ("one", "value", "field", "word"),
    [
        (DIGITS, {}, "input.image", "missing"),
        (DIGITS, [], "input", "object"),
        (DIGITS, None, "input", "null"),
        (DIGITS, {"image": None}, "input.image", "null"),
        (DIGITS, {"image": [1.0] * 64}, "input.image", "flat list"),
        (DIGITS, {"image": [[1.0] * 8] * 7}, "input.image", "7x8"),
        (DIGITS, {"image": [[1.0] * 8] * 7 + [[1.0] * 7]}, "input.image", "equal length"),
        (DIGITS, {"image": [["1"] * 8] * 8}, "input.image", "numbers"),
        (DIGITS, {"image": [[True] * 8] * 8}, "input.image", "numbers"),
        (DIGITS, {"image": []}, "input.image", "8x8"),
        (DIGITS, {"image": 5}, "input.image", "5"),
        (DIGITS, {"image": {"a": 1}}, "input.image", "object"),
        (DIGITS, {"image": "hello"}, "input.image", "upload"),
        (DIGITS, {"image": "https://example.org/cat.png"}, "input.image", "upload"),
        (DIGITS, {"image": "data:text/plain,hello"}, "input.image", "base64"),
        (DIGITS, {"image": "data:image/png;base64,####"}, "input.image", "base64"),
        (DIGITS, {"image": "data:image/png;base64,aGVsbG8="}, "input.image", "not an image"),
        (DIGITS, {"image": data_uri(kind="GIF")}, "input.image", "PNG"),
        (DIGITS, {"image": data_uri((5000, 5000))}, "input.image", "pixels"),
        (DIGITS, {"image": digit(), "extra": 1}, "input.extra", "expected image"),
        (DIGITS, {"instances": []}, "input.instances", "empty"),
        (DIGITS, {"instances": 3}, "input.instances", "3"),
        (DIGITS, {"instances": [{"image": digit()}, {}]}, "input.instances[1].image", "missing"),
        (DIGITS, {"instances": [3]}, "input.instances[0]", "object"),
        (DIGITS, {"instances": [{"image": digit()}], "image": digit()}, "input.image", "alone"),
        (PHOTO, {"image": [[[1, 2]] * 4] * 2}, "input.image", "2x4x3"),
        (TABLE, ROW | {"petal length (cm)": "1.5"}, "input.petal length (cm)", "finite number"),
        (TABLE, ROW | {"petal length (cm)": 1e39}, "input.petal length (cm)", "finite number"),
        (TABLE, ROW | {"petal length (cm)": 10**400}, "input.petal length (cm)", "finite number"),
        (TABLE, ROW | {"kind": "green"}, "input.kind", "'blue', 'red'"),
        (TABLE, ROW | {"kind": 3}, "input.kind", "'blue', 'red'"),
        (TABLE, ROW | {"wild": 1}, "input.wild", "true or false"),
        (TABLE, ROW | {"wild": None}, "input.wild", "null"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_field(one, value, field, word):
    for raw in (json.dumps(value).encode(), value):
        with pytest.raises(InvalidInput) as refused:
            validate_input(one, raw)
        assert refused.value.field == field
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "raw", [b"", b"nope", b'{"image": NaN}', b'{"image": [[1e999]]}', b"\xff\xfe", b'{"a": "\xff"}']
)
def test_bytes_that_are_not_json_are_refused(raw):
    with pytest.raises(InvalidInput):
        validate_input(DIGITS, raw)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_in_objects_too(bad):
    with pytest.raises(InvalidInput):
        validate_input(DIGITS, {"image": digit(bad)})
    with pytest.raises(InvalidInput):
        validate_input(TABLE, ROW | {"petal length (cm)": bad})


TWO = msgspec.structs.replace(
    TABLE, inputs=(NumberInput(name="a", required=False), NumberInput(name="b", required=False))
)


@pytest.mark.parametrize(
    ("value", "values"), [({"a": 1}, (1, None)), ({"b": 2}, (None, 2)), ({"a": None}, (None, None))]
)
def test_a_row_may_lack_columns_or_say_null(value, values):
    for raw in (json.dumps(value).encode(), value):
        assert validate_input(TWO, raw).values == [values]


@pytest.mark.parametrize(
    ("value", "field"), [({}, "input"), ({"instances": [{"b": 2}, {"a": None}, {}]}, "input.instances[2]")]
)
def test_a_row_of_nothing_is_refused_though_each_column_may_be_missing(value, field):
    for raw in (json.dumps(value).encode(), value):
        with pytest.raises(InvalidInput, match="is empty; expected an object with a, b") as caught:
            validate_input(TWO, raw)
        assert caught.value.field == field


def test_an_unknown_input_has_its_own_error():
    with pytest.raises(UnknownField):
        validate_input(TABLE, ROW | {"petal width": 1})


def test_a_column_may_be_called_instances():
    one = signature(NumberInput(name="instances"))
    assert validate_input(one, b'{"instances": 4}').values == [(4.0,)]
    with pytest.raises(InvalidInput):
        validate_input(one, b'{"instances": [{"instances": 4}]}')


def test_a_category_may_hold_the_word_instances():
    one = signature(CategoryInput(name="what", categories=("instances", "x")))
    assert validate_input(one, b'{"what": "instances"}').values == [("instances",)]


def test_our_own_file_urls_are_taken_and_their_ids_told():
    urls = [f"{BASE}/v1/files/{name}" for name in ("c01", "c02/content", "c01")]
    parsed = validate_input(DIGITS, {"instances": [{"image": url} for url in urls]}, base_url=BASE)
    assert list(parsed.files) == ["c01", "c02"]


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/v1/files/c01",
        f"{BASE}/v1/files/../secrets",
        f"{BASE}/v1/files/",
        f"{BASE}.evil.example/v1/files/c01",
        f"{BASE}/v1/files/c01?x=1",
        "file:///v1/files/c01",
    ],
)
def test_other_addresses_are_not_file_urls(url):
    assert file_id(url, BASE) is None
    with pytest.raises(InvalidInput):
        validate_input(DIGITS, {"image": url}, base_url=BASE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["image", "instances", "x"]), inner),
    max_leaves=6,
)


@hypothesis.settings(max_examples=60, deadline=None)
@given(VALUES)
def test_any_value_is_taken_or_refused_and_never_breaks_the_check(value):
    for one in (DIGITS, PHOTO, TABLE):
        with contextlib.suppress(InvalidInput):
            assert validate_input(one, value).rows >= 1
        with contextlib.suppress(InvalidInput):
            validate_input(one, json.dumps(value).encode())


def test_a_digit_is_checked_in_microseconds():
    raw = json.dumps({"image": digit()}).encode()
    validate_input(DIGITS, raw)
    best = min(_seconds(raw) for _ in range(20))
    assert best / 100 < 200e-6, "aim is 20 us; ten times that on a loaded machine"


def _seconds(raw: bytes) -> float:
    started = time.perf_counter()
    for _ in range(100):
        validate_input(DIGITS, raw)
    return time.perf_counter() - started


def test_schemas_name_every_input_and_output():
    schema = input_schema(TABLE)
    assert list(schema["properties"]) == [*ROW, "instances"]
    assert schema["properties"]["kind"]["enum"] == ["blue", "red"]
    assert output_schema(TABLE)["properties"]["label"]["enum"] == ["no", "yes"]
    value = signature(NumberInput(name="a"), task="regression")
    assert list(output_schema(value)["properties"]) == ["value"]
    values = signature(NumberInput(name="a"), task="regression", targets=("y", "z"))
    assert output_schema(values)["properties"]["values"]["required"] == ["y", "z"]
    for one in (DIGITS, PHOTO, TABLE):
        assert output_schema(one)["type"] == "object"
        json.dumps(input_schema(one))


@pytest.mark.parametrize("depth", [31, 32, 33, 200])
def test_lists_in_lists_cost_what_they_hold_whatever_their_depth(depth):
    value: object = 1
    for _ in range(depth):
        value = [value]
    assert nested_shape(value) == ((1,) * depth if depth <= 32 else ())


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ([], (0,)),
        ([[], []], (2, 0)),
        ([[1, 2], [3, 4.5]], (2, 2)),
        ([[1, 2], [3]], ()),
        ([[1], 2], ()),
        ([1, [2]], ()),
        ([[[1]], [[2, 3]]], ()),
        (["1"], ()),
        ([True], ()),
        (7, ()),
    ],
)
def test_shape_of_nested_lists_is_told_or_they_are_ragged(value, shape):
    assert nested_shape(value) == shape
