"""Dataset files of every kind a user may send: what is read, and the word each unusable one fails with."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coatcheck.catalog.options import TrainingInput
from coatcheck.catalog.parse import parse_training_input
from coatcheck.errors import InvalidInput
from coatcheck.signature import BooleanInput, CategoryInput, ImageInput, NumberInput
from workers.data import npz as npz_files
from workers.data.dataset import Dataset
from workers.data.load import load

ROWS = "a,label\n" + "1,x\n2,y\n" * 20
PIXELS = "p0,p1,p2,p3,digit\n" + "0,1,2,16,7\n16,2,1,0,3\n" * 20


def read(tmp_path: Path, content: str | bytes, recipe: str = "mlp", **options: object) -> Dataset:
    path = tmp_path / "dataset"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    given = parse_training_input(recipe, {"dataset": "x", **options})
    assert isinstance(given, TrainingInput)
    return load(path, given, folder=tmp_path / "work", recipe=recipe)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def images(count: int = 40, shape: tuple[int, ...] = (4, 5)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, *shape)).astype(np.uint8)


LABELS = np.arange(40) % 4


def test_columns_of_numbers_words_and_flags_keep_their_names_and_order(tmp_path):
    text = "petal length (cm);kind;wild;label\n" + "1;red;true;3.5\n2.5;blue;false;4.25\n" * 20
    dataset = read(tmp_path, text)
    assert dataset.inputs == (
        NumberInput(name="petal length (cm)", required=False),
        CategoryInput(name="kind", categories=("blue", "red"), open=True, required=False),
        BooleanInput(name="wild", required=False),
    )
    assert dataset.task == "regression"
    assert dataset.rows[:2].tolist() == [[1.0, 1.0, 1.0], [2.5, 0.0, 0.0]]
    assert dataset.labels[:2].tolist() == [[3.5], [4.25]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_usual_ways_to_write_csv_are_read(tmp_path, delimiter, start, newline):
    dataset = read(tmp_path, start + ROWS.replace(",", delimiter).replace("\n", newline))
    assert dataset.classes == ("x", "y")
    assert dataset.rows.shape == (40, 1)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["cat", "dog"], "classification", ("cat", "dog")),
        (["true", "false"], "classification", ("false", "true")),
        (["3", "11"], "classification", ("3", "11")),
        (["0.5", "1.5"], "regression", ()),
        ([str(n) for n in range(40)], "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(tmp_path, values, task, classes):
    text = "a,label\n" + "".join(f"{n},{values[n % len(values)]}\n" for n in range(40))
    dataset = read(tmp_path, text)
    assert (dataset.task, dataset.classes) == (task, classes)


def test_missing_and_infinite_values_are_kept_as_missing_and_rows_without_a_label_are_left_out(tmp_path):
    text = ROWS + ",x\nNA,y\n?,y\ninf,x\n1e300,x\n3,\n4\n5,x,6\n"
    dataset = read(tmp_path, text)
    assert len(dataset.rows) == 45
    assert np.isnan(dataset.rows[40:]).all()
    assert (dataset.report.rows, dataset.report.split.left_out, dataset.report.unreadable_count) == (46, 1, 2)
    assert [(bad.line, bad.reason) for bad in dataset.report.unreadable] == [
        (48, "1 field instead of 2"),
        (49, "3 fields instead of 2"),
    ]


def test_rows_with_missing_values_are_left_out_if_that_is_asked_for(tmp_path):
    text = ROWS + ",x\nNA,y\n1e300,x\n"
    dataset = read(tmp_path, text, clean={"missing": "drop"})
    assert (len(dataset.rows), dataset.report.split.left_out) == (40, 3)


def test_rows_whose_value_to_learn_is_not_finite_in_32_bits_are_counted_and_left_out(tmp_path):
    text = "a,label\n" + "".join(f"{n},{n}.5\n" for n in range(40)) + "1,3.5e38\n2,-1e300\n3,inf\n4,\n"
    dataset = read(tmp_path, text)
    assert (dataset.task, len(dataset.rows), dataset.report.split.left_out) == ("regression", 40, 4)
    assert np.isfinite(dataset.labels).all()


def test_a_few_typing_errors_do_not_make_a_number_column_words(tmp_path):
    dataset = read(tmp_path, "a,label\n" + "1,x\n2,y\n" * 200_000 + "oops,x\n")
    assert dataset.inputs == (NumberInput(name="a", required=False),)
    assert ("not_numbers", "a") in [(warning.code, warning.column) for warning in dataset.report.warnings]


def test_ids_free_text_and_empty_columns_are_not_used_and_the_reason_is_told(tmp_path):
    text = ",id,none,a,label\n" + "".join(f"{n},name-{n},,{n % 7},{'xy'[n % 2]}\n" for n in range(60))
    dataset = read(tmp_path, text)
    assert [item.name for item in dataset.inputs] == ["a"]
    dropped = {column.name: column.why for column in dataset.report.columns if column.used_as == "dropped"}
    assert set(dropped) == {"column 1", "id", "none"}
    assert all(dropped.values())


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [
        ("", {}, "empty_file"),
        ("\n\n  \n", {}, "empty_file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", {}, "not_a_csv"),
        (b"a\0,\0b\0", {}, "not_a_csv"),
        (b"\xff\xfea\0,\0b\0", {"target": "b"}, "no_usable_rows"),
        (npz(images=images(), labels=LABELS), {}, "shape_mismatch"),
        ("a\n" + "b,c,d\n" * 30, {"target": "a"}, "not_a_csv"),
        ("a,label\n", {}, "no_usable_rows"),
        ("a,b,label\n" + "1,,x\n,2,y\n" * 20, {"clean": {"missing": "drop"}}, "no_usable_rows"),
        ("a,b\n" + "1,2\n" * 30, {}, "target_missing"),
        (ROWS, {"target": "kind"}, "target_missing"),
        ("a,label\n" + "1,x\n" * 30, {}, "one_class_only"),
        ("a,label\n" + "1,5\n2,5\n" * 30, {"task": "regression"}, "one_value_only"),
        (ROWS, {"task": "regression"}, "target_not_numbers"),
        ("label\n" + "x\ny\n" * 30, {}, "no_input_columns"),
        ("a,a,label\n" + "1,2,x\n" * 30, {}, "duplicate_column"),
        ("a,label\n1,x\n2,y\n", {}, "too_few_rows"),
        (ROWS + "3,z\n", {}, "class_too_small"),
        ("a,label\n" + "".join(f"1,c{n}\n" for n in range(1500)), {}, "too_many_classes"),
    ],
)
def test_a_table_that_cannot_be_trained_on_fails_with_a_word_and_a_sentence(tmp_path, content, options, code):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content, **options)
    assert refused.value.code == code
    assert len(str(refused.value)) > 20


def test_pixels_in_columns_become_images(tmp_path):
    dataset = read(tmp_path, PIXELS, "cnn", target="digit", image_shape=[2, 2])
    assert dataset.rows.shape == (40, 1, 2, 2)
    assert dataset.rows[0, 0].tolist() == [[0, 1], [2, 16]]
    assert dataset.inputs == (ImageInput(name="image", channels=1, height=2, width=2, low=0.0, high=16.0),)
    assert dataset.classes == ("3", "7")


def test_images_with_a_pixel_missing_are_left_out(tmp_path):
    dataset = read(tmp_path, PIXELS + ",1,2,3,7\n1,1e99,2,3,7\n", "cnn", target="digit", image_shape=[2, 2])
    assert (len(dataset.rows), dataset.report.split.left_out) == (40, 2)
    assert np.isfinite(dataset.rows).all()


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [
        (PIXELS, {"target": "digit"}, "image_shape_missing"),
        (PIXELS, {"target": "digit", "image_shape": [2, 3]}, "shape_mismatch"),
        (PIXELS.replace("16", "dark"), {"target": "digit", "image_shape": [2, 2]}, "not_numbers"),
        (npz(images=images()), {}, "target_missing"),
        (npz(labels=LABELS), {}, "images_missing"),
        (npz(images=images(), labels=LABELS[:7]), {}, "shape_mismatch"),
        (npz(images=images(40, (7,)), labels=LABELS), {}, "shape_mismatch"),
        (npz(images=np.float32(7), labels=LABELS), {}, "shape_mismatch"),
        (npz(images=np.zeros(40), labels=LABELS), {}, "shape_mismatch"),
        (npz(images=np.zeros(40), labels=LABELS), {"image_shape": [1, 1]}, "shape_mismatch"),
        (npz(images=np.zeros((0, 4, 5)), labels=LABELS[:0]), {}, "no_usable_rows"),
        (npz(images=images(), labels=np.int64(3)), {}, "shape_mismatch"),
        (npz(images=images(40, (2, 3, 4, 5)), labels=LABELS), {}, "shape_mismatch"),
        (npz(images=images(), labels=LABELS), {"image_shape": [9, 9]}, "shape_mismatch"),
        (npz(images=images().astype(str), labels=LABELS), {}, "not_numbers"),
        (npz(images=np.full((40, 4, 5), np.nan), labels=LABELS), {}, "no_usable_rows"),
        (npz(images=images(), labels=np.array([None] * 40)), {}, "not_an_npz"),
        (npz(images=images(), labels=np.eye(4)[LABELS]), {}, "several_targets"),
        (npz(images=images(), labels=LABELS)[:-40], {}, "not_a_zip"),
        (b"PK\x03\x04 and then something else", {}, "not_a_zip"),
    ],
)
def test_images_that_cannot_be_trained_on_fail_with_a_word_and_a_sentence(tmp_path, content, options, code):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content, "cnn", **options)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 5), 1), ((4, 5, 1), 1), ((4, 5, 3), 3), ((3, 4, 5), 3), ((1, 4, 5), 1)]
)
def test_npz_images_of_every_layout_are_read(tmp_path, shape, channels):
    dataset = read(tmp_path, npz(images=images(40, shape), labels=LABELS.astype(str)), "cnn")
    assert dataset.rows.shape == (40, channels, 4, 5)
    (image,) = dataset.inputs
    assert isinstance(image, ImageInput)
    assert image.high == 255.0, "bytes always mean 0 to 255"


def test_npz_arrays_may_be_written_in_any_byte_order(tmp_path):
    turned = np.asfortranarray(images().astype(">f4"))
    a = read(tmp_path, npz(images=turned, labels=LABELS), "cnn")
    b = read(tmp_path, npz(x=images().astype(np.float32), y=LABELS), "cnn")
    assert np.array_equal(a.rows, b.rows)


BAD_TEXT = np.array([0x110000, 0x61] * 20, np.uint32).view("U1")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (npz(x=np.zeros((40, 0)), label=LABELS), "shape_mismatch"),
        (npz(x=np.zeros((40, 2)), x0=LABELS, label=LABELS), "duplicate_column"),
        (npz(x=LABELS, label=BAD_TEXT), "not_an_npz"),
        (npz(x=LABELS, label=np.array([0xD800, 0x61] * 20, np.uint32).view("U1")), "not_an_npz"),
    ],
)
def test_arrays_that_are_no_table_fail_with_a_word_and_a_sentence(tmp_path, content, code):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content, "mlp")
    assert refused.value.code == code


@pytest.mark.parametrize("form", ["csv", "npz table", "npz images"])
@pytest.mark.parametrize("count", [2, 4])
def test_classes_that_are_huge_whole_numbers_stay_apart(tmp_path, form, count):
    names = [str(2**53 + n % count) for n in range(40)]
    rows: dict[str, str | bytes] = {
        "csv": "a,label\n" + "".join(f"{n % 7},{name}\n" for n, name in enumerate(names)),
        "npz table": npz(a=np.arange(40) % 7, label=np.array([int(name) for name in names])),
        "npz images": npz(images=images(), labels=np.array([int(name) for name in names])),
    }
    dataset = read(tmp_path, rows[form], "cnn" if form == "npz images" else "mlp")
    assert dataset.classes == tuple(names[:count])
    assert dataset.labels.tolist() == [n % count for n in range(40)]


def test_an_array_among_files_of_class_folders_changes_nothing(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(40):
            shade = io.BytesIO()
            Image.fromarray(np.full((4, 5), number, np.uint8)).save(shade, "PNG")
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", shade.getvalue())
        archive.writestr("a/features.npy", b"\x93NUMPY")
    dataset = read(tmp_path, buffer.getvalue(), "cnn")
    assert (len(dataset.rows), dataset.report.format, dataset.report.unreadable_count) == (40, "zip", 1)


def member(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


@pytest.mark.parametrize(
    "content",
    [
        member(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04."),
        member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (0, %d, %d)}" % (2**47, 2**47)),
        *[
            member(b"{'descr': '%s', 'fortran_order': False, 'shape': (2,)}" % kind, b"\0" * 16)
            for kind in (b"|f1", b"b2", b"<b8", b"<U0", b"<f1", b"|i0", b"<f16", b"<U")
        ],
        member(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        member(b"__import__('os').system('true')"),
        member(b"[" * 5000),
        member(b"{}"),
        member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'evil': 1}", b"\0" * 16),
        member(b" " * 20000, version=2),
        b"\x93NUMPY",
        b"hello",
        b"",
    ],
)
def test_hostile_arrays_are_refused_without_being_run_or_allocated(tmp_path, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, buffer.getvalue(), "cnn")
    assert refused.value.code == "not_an_npz"


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_files, "MAX_BYTES", 10_000)
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, npz(images=np.zeros((100, 20, 20)), labels=np.zeros(100)), "cnn")
    assert refused.value.code == "too_large"


def test_an_npz_that_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_files, "MAX_EXTRA_BYTES", 10_000)
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, npz(images=np.zeros((100, 50, 50)), labels=np.zeros(100)), "cnn")
    assert refused.value.code == "zip_bomb"


def test_a_flipped_bit_never_breaks_the_reader(tmp_path):
    whole = npz(images=images(), labels=LABELS)
    generator = np.random.default_rng(1)
    for position in generator.integers(0, len(whole), 60):
        content = bytearray(whole)
        content[position] ^= 1 << int(generator.integers(8))
        try:
            dataset = read(tmp_path, bytes(content), "cnn")
        except InvalidInput as error:
            refused = error.code
            assert refused != "invalid_input"
        else:
            assert len(dataset.rows) <= 40


def test_the_split_keeps_class_shares_and_is_the_same_for_the_same_seed(tmp_path):
    text = "a,label\n" + "".join(f"{n},{'rare' if n % 10 == 0 else 'usual'}\n" for n in range(400))
    dataset = read(tmp_path, text, seed=5)
    parts, again = dataset.split, read(tmp_path, text, seed=5).split
    other = read(tmp_path, text, seed=6).split
    assert not np.array_equal(parts.train, other.train)
    for name, count in (("train", 280), ("validation", 40), ("test", 80)):
        part = getattr(parts, name)
        assert len(part) == count
        assert (dataset.labels[part] == 0).mean() == pytest.approx(0.1, abs=0.02)
        assert np.array_equal(part, getattr(again, name))
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together.tolist()) == list(range(400))


def test_fractions_that_leave_a_part_without_a_class_are_refused(tmp_path):
    text = "a,label\n" + "".join(f"{n},c{n % 10}\n" for n in range(40))
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, text, test_fraction=0.02)
    assert refused.value.code == "too_few_rows"
