"""Small real datasets, one command to train each on a running service: `python -m examples.train iris`.

Takes REPLICATE_API_TOKEN and REPLICATE_BASE_URL, as the service prints them. The data ships with scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import httpx
from sklearn import datasets

from examples import digits
from examples.service import DemoFailed, checked
from examples.training import console, train

#: Name -> scikit-learn's loader, and the column to predict.
TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "iris": (datasets.load_iris, "species"),
    "wine": (datasets.load_wine, "cultivar"),
    "breast_cancer": (datasets.load_breast_cancer, "diagnosis"),
    "diabetes": (datasets.load_diabetes, "progression"),
}


def table(name: str) -> bytes:
    """A dataset as CSV: its columns, then the target (class names where it has classes)."""
    load, target = TABLES[name]
    found = load()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(str(column).replace(" (cm)", "").replace(" ", "_") for column in found.feature_names), target])
    for row, value in zip(found.data.tolist(), found.target.tolist(), strict=True):
        writer.writerow([*row, found.target_names[int(value)] if "target_names" in found else value])
    return text.getvalue().encode()


def main() -> int:
    """Upload, train, print the metrics; 0 when it worked."""
    parser = argparse.ArgumentParser(prog="examples.train", description=__doc__)
    parser.add_argument("dataset", choices=["digits", *TABLES])
    name: str = parser.parse_args().dataset
    headers = {"Authorization": f"Bearer {os.environ['REPLICATE_API_TOKEN']}"}
    options: dict[str, Any] = {"target": "digit", "image_shape": [8, 8]}
    if name != "digits":
        options = {"target": TABLES[name][1]}
    content = digits.to_csv(*digits.load()) if name == "digits" else table(name)
    with httpx.Client(base_url=os.environ["REPLICATE_BASE_URL"], headers=headers, timeout=60, trust_env=False) as http:
        try:
            owner = checked(http.get("/v1/account"))["username"]
            file = checked(http.post("/v1/files", files={"content": (f"{name}.csv", content, "text/csv")}))
            destination = f"{owner}/{name.replace('_', '-')}"
            options["dataset"] = file["id"]
            output = train(http, "cnn" if name == "digits" else "mlp", destination, options)["output"]
        except (DemoFailed, httpx.HTTPError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    figures = {key: value for key, value in output["metrics"].items() if isinstance(value, int | float)}
    console.print(output["version"], soft_wrap=True)
    console.print(", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
