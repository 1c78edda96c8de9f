"""One training through the HTTP API, followed with a progress bar. Knows no dataset."""

from __future__ import annotations

import time
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.service import DemoFailed, checked

console = Console(highlight=False)


def train(http: httpx.Client, recipe: str, destination: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train `catalog/<recipe>` to `destination` (`owner/name`); returns the succeeded training.

    Raises:
        DemoFailed: it was refused or did not succeed; the message says why.
    """
    base: dict[str, Any] = checked(http.get(f"/v1/models/catalog/{recipe}"))
    path = f"/v1/models/catalog/{recipe}/versions/{base['latest_version']['id']}/trainings"
    training: dict[str, Any] = checked(http.post(path, json={"destination": destination, "input": options}))
    columns = (TextColumn("[bold]training[/bold]"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("waiting for a worker", total=None)
        while training["status"] in ("starting", "processing"):
            time.sleep(0.2)
            training = checked(http.get(f"/v1/trainings/{training['id']}"))
            told = training.get("progress") or {}
            if told:
                total = told["total"] if told["total"] > 1 else None
                words = told["phase"] + (f" epoch {told['epoch'] + 1}/{told['epochs']}" if "epoch" in told else "")
                bar.update(task, completed=told["done"], total=total, description=words)
        bar.update(task, completed=1, total=1, description=training["state"])
    if training["status"] != "succeeded":
        raise DemoFailed(f"training {training['id']}: {training['code']}: {training['error']}")
    return training
