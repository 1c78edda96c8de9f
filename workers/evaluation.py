"""Metrics of a trained network on rows it never saw. Pure: arrays in, JSON-able numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

#: Pairs of classes told as the worst confusions.
WORST = 5


def classification(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, macro F1, log loss, the confusion matrix (rows: true class) and its worst pairs."""
    found = probabilities.argmax(axis=1)
    positions = np.arange(len(classes))
    confusion = metrics.confusion_matrix(labels, found, labels=positions)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, found, labels=positions, zero_division=0.0
    )
    chosen = np.clip(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-12, 1.0)
    return {
        "accuracy": _round(metrics.accuracy_score(labels, found)),
        "macro_f1": _round(metrics.f1_score(labels, found, labels=positions, average="macro", zero_division=0.0)),
        "log_loss": _round(float(-np.log(chosen).mean())),
        "majority_accuracy": _round(float(support.max() / max(1, support.sum()))),
        "confusion": confusion.tolist(),
        "worst_confusions": _worst(confusion, classes),
        "classes": {
            name: {
                "precision": _round(precision[place]),
                "recall": _round(recall[place]),
                "f1": _round(f1[place]),
                "rows": int(support[place]),
            }
            for place, name in enumerate(classes)
        },
    }


def regression(targets: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Mean absolute error, root mean square error (both in the target's unit) and R2."""
    wanted, found = targets.astype(np.float64), values.astype(np.float64)
    mean_error = float(np.abs(wanted - wanted.mean()).mean())
    return {
        "mae": _round(metrics.mean_absolute_error(wanted, found)),
        "rmse": _round(float(np.sqrt(metrics.mean_squared_error(wanted, found)))),
        "r2": _round(metrics.r2_score(wanted, found)) if len(wanted) > 1 else None,
        "mean_guess_mae": _round(mean_error),
    }


def _worst(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:WORST]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    return [
        {"true": classes[true], "predicted": classes[found], "rows": int(wrong[true, found])}
        for true, found in pairs
        if wrong[true, found]
    ]


def _round(value: float) -> float:
    return float(f"{value:.6g}")
