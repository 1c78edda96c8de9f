"""Scikit-learn's handwritten digits (1,797 real 8x8 images, brightness 0 to 16) as a CSV file of pixel columns.

`python -m examples.digits digits.csv` writes it; the demo uploads the same bytes.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

from sklearn.datasets import load_digits


def load() -> tuple[list[list[list[float]]], list[str]]:
    """Images as nested rows of numbers, and the digit each shows."""
    digits: Any = load_digits()
    return digits.images.tolist(), [str(label) for label in digits.target]


def to_csv(images: list[list[list[float]]], labels: list[str]) -> bytes:
    """One image a line: 64 pixel columns, then `digit`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(f"pixel_{number}" for number in range(64)), "digit"])
    for image, label in zip(images, labels, strict=True):
        writer.writerow([*(f"{pixel:g}" for row in image for pixel in row), label])
    return text.getvalue().encode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(to_csv(*load()))
