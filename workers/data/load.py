"""The entry: a dataset file and a training's options -> a Dataset, with the report of what was found.

Knows formats, recipes by name and what each wants. Does not know where the file came from, networks or torch.
Whatever a user could change about the file is raised as `InvalidInput` with a `code` of its own (see `refused`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from coatcheck.catalog.options import TrainingInput
from coatcheck.errors import InvalidInput
from coatcheck.signature import Input
from workers.data import pixels
from workers.data.arrays import load_arrays
from workers.data.choose import choose, described, warn
from workers.data.dataset import Dataset, Positions, Split
from workers.data.duplicates import first_of_each
from workers.data.folders import load_folders
from workers.data.formats import open_table
from workers.data.npz import holds_arrays, holds_blocks, is_zip
from workers.data.npz_table import NpzTable
from workers.data.plan import Plan
from workers.data.profile import TableProfile, profile
from workers.data.refusals import refused, shown
from workers.data.report import Parts, Report
from workers.data.sequences import (
    SequenceRows,
    TextRows,
    choose_sequence,
    is_sequence,
    sequence_input,
    text_input,
)
from workers.data.space import check_space
from workers.data.split import check_rows, split
from workers.data.table import Broken, Table
from workers.data.tables import TableRows, inputs
from workers.data.targets import target_names
from workers.data.training_facts import seen_words, within_bounds
from workers.data.vocabulary import to_tokens
from workers.data.writer import RowReader, Written, label_bytes, write_table

#: A refused table of more columns is told by its sentence alone.
_MOST_TOLD = 2000
#: What each recipe learns from.
RECIPE_WANTS = {
    "linear": ("table",),
    "mlp": ("table",),
    "kmeans": ("table",),
    "cnn": ("image",),
    "resnet": ("image",),
    "rnn": ("sequence",),
    "transformer": ("sequence",),
    "hugging_face": ("sequence",),
    "autoencoder": ("table", "image"),
    "audio": ("audio",),
    "auto": ("table", "image", "sequence", "audio"),
}


@dataclasses.dataclass
class Counted:
    """Pass 1 over a table, where it came to its end: what is refused after it need not be read again to be told."""

    table: Table | None = None
    profile: TableProfile | None = None


def load(
    path: Path,
    options: TrainingInput,
    *,
    folder: Path,
    recipe: str,
    test_path: Path | None = None,
    counted: Counted | None = None,
) -> Dataset:
    """Read a dataset file (and a second one with the test rows); arrays are files in `folder`.

    Pass 1 over a table is left in `counted`, for `refused_report`.

    Raises:
        InvalidInput: with a `code` such as empty_file, not_a_csv, target_missing, one_class_only, no_usable_rows.
    """
    if is_zip(path):
        if test_path is not None:
            raise refused("wrong_format", "input.test_dataset is read for text tables only", "input.test_dataset")
        if not holds_arrays(path):
            return load_folders(path, options, wants=RECIPE_WANTS[recipe], recipe=recipe, folder=folder)
        if not _is_table(path, recipe):
            return _from_arrays(path, options, recipe)
    table, plan = _planned(path, options, recipe, counted if counted is not None else Counted())
    second = open_table(test_path) if test_path is not None else None
    if second is not None and second.names != table.names:
        raise refused(
            "columns_differ",
            f"the columns of input.test_dataset are {shown(second.names)}; those of input.dataset are "
            f"{shown(table.names)}",
            "input.test_dataset",
        )
    data = plan.report.data
    reader: RowReader = TableRows(plan, options)
    if data in ("text", "sequence"):
        reader = TextRows(plan) if data == "text" else SequenceRows(plan)
    folder.mkdir(parents=True, exist_ok=True)
    count = plan.report.rows + (_rows_of(second) if second is not None else 0)
    check_space(count, reader.shape, folder, more=label_bytes(plan))
    written = write_table(table, second, reader, plan, options=options, folder=folder)
    parts, unlabeled = _parted(plan, written, options, folder)
    if data == "table":
        plan = dataclasses.replace(plan, features=seen_words(plan.features, written.rows, parts.train))
        parts, unlabeled = within_bounds(plan.features, written.rows, parts, unlabeled, options)
    _tell_parts(plan, written, parts, unlabeled)
    if data == "image":
        return pixels.dataset(plan, written, options, (parts, unlabeled))
    return Dataset(
        task=plan.task,
        inputs=_inputs(plan, written, parts),
        rows=written.rows,
        labels=written.labels,
        classes=plan.classes,
        targets=tuple(target.name for target in plan.targets),
        split=parts,
        unlabeled=unlabeled,
        lines=written.lines,
        report=plan.report,
    )


def refused_report(path: Path, options: TrainingInput, recipe: str, why: InvalidInput, before: Counted) -> Report:
    """What is in the columns of a table that was refused, with the refusal as a warning; nothing is used of it.

    What was counted before is not counted again.

    Raises:
        InvalidInput: `why`, where no table can be read.
    """
    try:
        if is_zip(path) or "table" not in RECIPE_WANTS[recipe]:
            raise why
        table = before.table or open_table(path)
        if len(table.names) > _MOST_TOLD:
            raise why
        counted = before.profile or profile(table, options.split_column)
        found = Report(format=table.format)
        table.describe(found)
    except InvalidInput:
        raise why from None
    named = (options.target,) if isinstance(options.target, str) else tuple(options.target)
    found.rows, found.target = counted.rows, [name for name in named if name in table.names and name]
    for position, name in enumerate(counted.names):
        told = described(counted, position)
        warn(found, counted.columns[position], told)
        told.used_as = "target" if name in found.target else "dropped"
        told.why = "" if told.used_as == "target" else "the dataset was refused"
        found.columns.append(told)
    found.duplicates, found.duplicates_are_estimate = counted.repeated.repeats, not counted.repeated.exact
    found.unreadable, found.unreadable_count = counted.broken.first, counted.broken.count
    found.warnings = [one for one in found.warnings if one.code != why.code]
    found.warn(why.code, f"refused: {why}")
    return found


def _planned(path: Path, options: TrainingInput, recipe: str, before: Counted) -> tuple[Table, Plan]:
    """Pass 1: the table in the file, and what is decided about it."""
    table = NpzTable(path) if is_zip(path) else open_table(path)
    wants = RECIPE_WANTS[recipe]
    shaped = getattr(options, "image_shape", None) is not None
    if not {"table", "sequence"} & set(wants) and not ("image" in wants and shaped):
        if "image" in wants:
            raise pixels.no_shape(table)
        raise refused("wrong_format", f"catalog/{recipe} reads {wants[0]} data; the dataset is a {table.format} table")
    target_names(table.names, options, recipe)  # before all cells are read for nothing
    counted = profile(table, options.split_column)
    found = Report(format=table.format)
    table.describe(found)  # what is odd further down is known now
    before.table, before.profile = table, counted
    if "image" in wants and shaped:
        return table, pixels.choose_pixels(counted, options, recipe, found)
    if "table" not in wants or (recipe == "auto" and is_sequence(counted, options, recipe)):
        return table, choose_sequence(counted, options, recipe, found)
    return table, choose(counted, options, recipe, found)


def _rows_of(table: Table) -> int:
    return sum(batch.cells.num_rows for batch in table.batches(Broken()))


def _is_table(path: Path, recipe: str) -> bool:
    """An NPZ file is read as a table by recipes for tables, unless it holds images and they read those too."""
    wants = RECIPE_WANTS[recipe]
    return "table" in wants and not (len(wants) > 1 and holds_blocks(path))


def _inputs(plan: Plan, written: Written, parts: Split) -> tuple[Input, ...]:
    """The signature's inputs; turns characters into tokens, now that the training rows are known."""
    feature = plan.features[0]
    if feature.kind == "sequence":
        return (sequence_input(feature),)
    if feature.kind == "text":
        characters = to_tokens(written.rows, parts.train) if feature.vocabulary == "characters" else None
        return (text_input(feature, characters),)
    plan.report.shape = [len(plan.features)]
    return inputs(plan)


def _from_arrays(path: Path, options: TrainingInput, recipe: str) -> Dataset:
    """Images or sequences of an NPZ file."""
    wants = RECIPE_WANTS[recipe]
    data = "image" if "image" in wants else "sequence"
    if data not in wants:
        raise refused("wrong_format", f"the dataset is an NPZ file; catalog/{recipe} reads {' or '.join(wants)} data")
    return load_arrays(path, options, recipe, data=data)


def _parted(plan: Plan, written: Written, options: TrainingInput, folder: Path) -> tuple[Split, Positions]:
    """Split of the written rows, and the rows without a label."""
    usable = written.labelled
    if len(written.hashes):
        usable = usable & first_of_each(written.hashes)
    check_rows(int(usable.sum()), plan.report.rows)
    strata = written.labels if plan.task == "classification" else None
    parts = split(usable, strata, options, written.parts, folder)
    unlabeled = np.flatnonzero(~written.labelled)
    if written.broken.count:
        plan.report.warn(
            "test_unreadable",
            f"{written.broken.count} lines of input.test_dataset could not be read, the first is line "
            f"{written.broken.first[0].line}: {written.broken.first[0].reason}",
        )
    if plan.split_position is not None and (unsaid := int((written.parts < 0).sum())):
        plan.report.warn(
            "split_not_said",
            f"{unsaid} rows say none of train, validation and test in column {options.split_column!r}; they are left "
            "out",
            options.split_column,
        )
    return parts, unlabeled


def _tell_parts(plan: Plan, written: Written, parts: Split, unlabeled: Positions) -> None:
    used = len(parts.train) + len(parts.validation) + len(parts.test)
    plan.report.split = Parts(
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        unlabeled=len(unlabeled),
        left_out=written.seen - used - len(unlabeled),
    )
