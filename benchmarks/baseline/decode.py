"""The request of a prediction, decoded and checked in one pass by msgspec. Knows no queue and no model."""

from __future__ import annotations

import msgspec


class _Input(msgspec.Struct):
    image: list[list[float]]


class _Request(msgspec.Struct):
    version: str
    input: _Input


_decode = msgspec.json.Decoder(_Request).decode


def decode_request(body: bytes) -> list[list[float]]:
    """The 8 x 8 image of a request body.

    Raises:
        ValueError: not JSON, or not an 8 x 8 image.
    """
    image = _decode(body).input.image
    if len(image) != 8 or any(len(row) != 8 for row in image):
        raise ValueError("image must be 8 x 8")
    return image
