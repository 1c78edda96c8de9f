"""Between a client's JSON and the arrays of the graph: the one module training and serving share.

Knows the signature and how to read pixels. Does not know where uploaded files lie (`read_file` is given), nor
jobs, nor ONNX Runtime. Numeric work (scaling, one-hot, softmax) is in the graph, not here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from coatcheck.errors import InvalidInput
from coatcheck.images import IMAGE_FORMATS, MAX_IMAGE_PIXELS, check_image_header, data_uri_bytes
from coatcheck.signature import (
    BooleanInput,
    CategoryInput,
    ImageInput,
    Signature,
    file_id,
    image_axes,
    nested_shape,
)

Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS

Floats = npt.NDArray[np.float32]
#: Bytes of an uploaded file by its id.
ReadFile = Callable[[str], bytes]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_values(signature: Signature, values: Sequence[Sequence[Any]], read_file: ReadFile) -> Floats:
    """Rows as `validate_input` returns them (`ParsedInput.values`) -> the graph's input, float32 [N, ...].

    Raises:
        InvalidInput: an image that does not decode; the others of a call are then not decoded either.
    """
    first = signature.inputs[0]
    if isinstance(first, ImageInput):
        return _images(first, [row[0] for row in values], read_file)
    columns = np.empty((len(values), len(signature.inputs)), np.float32)
    for position, item in enumerate(signature.inputs):
        column = [row[position] for row in values]
        if isinstance(item, CategoryInput):
            codes = {word: code for code, word in enumerate(item.categories)}
            columns[:, position] = [codes[word] for word in column]
        else:
            columns[:, position] = column
    return columns


def _images(item: ImageInput, images: Sequence[Any], read_file: ReadFile) -> Floats:
    if item.channels == 1 and not any(isinstance(image, str) for image in images):
        try:  # the usual case, one conversion for all rows
            return np.asarray(images, np.float32).reshape(len(images), 1, item.height, item.width)
        except ValueError:
            pass  # some row is HxWx1: take them one by one
    return np.stack([_image(item, image, read_file) for image in images])


def _image(item: ImageInput, image: Any, read_file: ReadFile) -> Floats:
    """One image as float32 [channels, height, width] in the signature's range."""
    field = f"input.{item.name}"
    if isinstance(image, str):
        if image.startswith("data:"):
            return decode_pixels(item, data_uri_bytes(image, field), field)
        found = file_id(image)
        if found is None:
            raise InvalidInput(f"{field} is an address elsewhere; upload the file or send a data URI", field=field)
        return decode_pixels(item, read_file(found), field)
    axes = image_axes(item, nested_shape(image))
    if not axes:
        raise InvalidInput(f"{field} does not have the shape of the signature", field=field)
    array = np.asarray(image, np.float32)
    if axes == "HW":
        return array[None]
    return array.transpose(2, 0, 1) if axes == "HWC" else array


def decode_pixels(item: ImageInput, data: bytes, field: str) -> Floats:
    """An encoded image -> float32 [channels, height, width], resized if need be, 0..255 mapped to the range.

    Raises:
        InvalidInput: not an image of the three formats, too many pixels, or damaged.
    """
    check_image_header(data, field)
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits a pixel: `convert` would clip them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert(_MODES.get(item.channels, "L"))
            if image.size != (item.width, item.height):
                image = image.resize((item.width, item.height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, np.float32)
    except Exception:  # noqa: BLE001 - Pillow's parsers raise many kinds; none of their texts is for users
        raise InvalidInput(f"{field} is an image that does not decode: it is damaged or cut off", field=field) from None
    pixels = pixels.reshape(item.height, item.width, -1).transpose(2, 0, 1)
    if len(pixels) != item.channels:
        raise InvalidInput(f"{field} is an encoded image; send {item.channels} channels as numbers", field=field)
    return np.ascontiguousarray(pixels * np.float32((item.high - item.low) / 255.0) + np.float32(item.low))


def encode_values(signature: Signature, rows: Floats) -> list[dict[str, Any]]:
    """The graph's input -> rows as a client would send them; what training writes as examples."""
    first = signature.inputs[0]
    if isinstance(first, ImageInput):
        images = rows[:, 0] if first.channels == 1 else rows.transpose(0, 2, 3, 1)
        return [{first.name: image} for image in images.tolist()]
    encoded = []
    for row in rows.tolist():
        values: dict[str, Any] = {}
        for item, value in zip(signature.inputs, row, strict=True):
            if isinstance(item, CategoryInput):
                values[item.name] = item.categories[int(value)]
            else:
                values[item.name] = bool(value) if isinstance(item, BooleanInput) else _short(value)
        encoded.append(values)
    return encoded


def encode_outputs(signature: Signature, outputs: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """The graph's outputs [N, ...] -> one JSON-able object a row. Probabilities have 6 decimals, values 7 digits."""
    array = outputs[signature.graph_outputs[0].name]
    if signature.task == "classification":
        classes = signature.classes
        labels = array.argmax(axis=1).tolist()
        rows = array.astype(np.float64).round(6).tolist()
        return [
            {"label": classes[label], "probabilities": dict(zip(classes, row, strict=True))}
            for label, row in zip(labels, rows, strict=True)
        ]
    if len(signature.targets) > 1:
        return [{"values": dict(zip(signature.targets, map(_short, row), strict=True))} for row in array.tolist()]
    return [{"value": _short(value)} for value in array.reshape(len(array)).tolist()]


def _short(value: float) -> float | None:
    """7 significant digits, as many as a 32-bit float has; None for what JSON cannot say."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
