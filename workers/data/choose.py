"""From the profile of a table to a plan: kind and use of every column, and the report. Reads no rows."""

from __future__ import annotations

import re

from coatcheck.catalog.options import TrainingInput
from workers.data.leaks import copies
from workers.data.looks import odd_form
from workers.data.plan import Feature, Plan, class_names
from workers.data.profile import ColumnProfile, TableProfile
from workers.data.refusals import refused, shown
from workers.data.report import Column, Report
from workers.data.split import check_rows
from workers.data.targets import MOSTLY, TARGET_NAMES, TASK_WITHOUT_TARGET, find_targets, target_names
from workers.data.training_facts import outlier_bounds

#: A category keeps its commonest words; rarer ones count as unseen.
MAX_CATEGORIES = 500
#: Outliers further out than this many times the usual span are extreme.
_EXTREME = 4.0
_ID_NAME = re.compile(
    r"(^|[_\W])(id|ids|index|idx|key|uuid|guid|rowid|row|no|nr|number|num|unnamed: 0)($|[_\W])|Id$|ID$"
)
_TIME_NAME = re.compile(r"year|time|date|day|month|week|hour|minute|second|step|^t$|^x$", re.IGNORECASE)


def choose(found: TableProfile, options: TrainingInput, recipe: str, report: Report) -> Plan:
    """Decide about every column; fills the report.

    Raises:
        InvalidInput: an option names a column that is not there, or nothing is left to learn (from).
    """
    check_names(found, options)
    check_rows(found.rows, found.rows)
    names = target_names(found.names, options, recipe)
    task, targets = find_targets(found, names, options, recipe)
    columns: list[Column] = []
    features: list[Feature] = []
    for position, profile in enumerate(found.columns):
        told, feature = _column(found, position, options, names)
        columns.append(told)
        if feature is not None:
            features.append(feature)
            _warn_of_extremes(report, feature, told)
        warn(report, profile, told)
    if not features:
        features = _rescued(found, columns)
    if not features:
        left = {column.name: column.why for column in columns if column.used_as == "dropped"}
        raise refused("no_input_columns", f"beside {shown(names)} no column is usable: {left or 'there is none'}")
    plan = Plan(
        task=task,
        features=tuple(features),
        targets=targets,
        classes=class_names(task, targets),
        split_position=split_place(found, options),
        report=report,
    )
    fill(report, found, plan, columns, names)
    warn_of_repeats(report, options)
    _warn_of_labels(report, recipe)
    _warn_of_bounds(report, plan, options)
    copies(found, plan, report)
    return plan


def has_columns(found: TableProfile, options: TrainingInput, targets: tuple[str, ...]) -> bool:
    """A column beside the targets can be read as one of a table.

    Raises:
        InvalidInput: with code kind_does_not_fit.
    """
    return any(_column(found, place, options, targets)[1] is not None for place in range(len(found.columns)))


def check_names(found: TableProfile, options: TrainingInput) -> None:
    """Refuse options that name a column there is not."""
    given = [("drop", name) for name in options.drop] + [("kinds", name) for name in options.kinds]
    given += [("split_column", options.split_column)] if options.split_column else []
    for field, name in given:
        if not name or name not in found.names:
            raise refused(
                "column_missing",
                f"input.{field} names {name!r}; the dataset's columns are {shown(filter(None, found.names))}",
                f"input.{field}",
            )
    targets = [options.target] if isinstance(options.target, str) else options.target
    for name in targets:
        if name and (name in options.drop or name == options.split_column):
            field = "drop" if name in options.drop else "split_column"
            raise refused("target_dropped", f"input.{field} names the target {name!r}", f"input.{field}")


def split_place(found: TableProfile, options: TrainingInput) -> int | None:
    """Place of the split column."""
    return found.names.index(options.split_column) if options.split_column else None


def found_kind(column: ColumnProfile, rows: int) -> str:
    """number, boolean, date, sequence, category, many (a category of many words), text, id or empty."""
    if not column.present:
        return "empty"
    if column.numeric >= MOSTLY * column.present:
        return "number"
    if column.boolean == column.present:
        return "boolean"
    if column.dated >= MOSTLY * column.present:
        return "date"
    if column.lists.cells >= MOSTLY * column.present:
        return "sequence"
    distinct = column.distinct.distinct
    if column.words is not None and sum(column.words.counts.values()) < 0.5 * column.present and column.words.exact:
        return "text"  # words too long to be kept
    if distinct <= min(MAX_CATEGORIES, max(20, rows // 2)):
        return "category"
    if distinct <= column.present // 2 and column.words is not None and column.words.counts:
        return "many"
    return "text" if _is_text(column) else "id"


def _is_text(column: ColumnProfile) -> bool:
    """Cells with blanks inside, of a script that needs none, or long ones."""
    wide = column.bytes >= 1.5 * column.characters
    return column.spaced >= 0.3 * column.present or wide or column.characters >= 60 * column.present


def _column(
    found: TableProfile, position: int, options: TrainingInput, targets: tuple[str, ...]
) -> tuple[Column, Feature | None]:
    profile = found.columns[position]
    told = described(found, position)
    given = options.kinds.get(profile.name) if profile.name else None
    if not profile.name:
        return dropped(told, "no name in the header line"), None
    if profile.name in targets:
        told.used_as = "target"
        return told, None
    if profile.name == options.split_column:
        told.used_as = "split"
        return told, None
    if profile.name in found.left_out:
        return dropped(told, found.left_out[profile.name]), None
    if profile.name in options.drop or given == "ignore":
        return dropped(told, "as input asks"), None
    kind = _given_kind(profile, given) if given else _usable_kind(profile, told, found)
    if not kind:
        return told, None
    told.kind = kind
    return told, _feature(found, position, kind)


def _feature(found: TableProfile, position: int, kind: str) -> Feature:
    profile = found.columns[position]
    categories: tuple[str, ...] = ()
    if kind == "category" and profile.words is not None:
        categories = tuple(sorted(word for word, _ in profile.words.top(MAX_CATEGORIES)))
    bounds = _bounds(found, position) if kind == "number" else None
    return Feature(position=position, name=profile.name, kind=kind, categories=categories, bounds=bounds)


def dropped(told: Column, why: str) -> Column:
    """Mark a column as not used."""
    told.used_as = "dropped"
    told.why = why
    return told


def _usable_kind(profile: ColumnProfile, told: Column, found: TableProfile) -> str:
    """Kind of a feature; "" if it is dropped, and `told` says why."""
    kind = told.kind
    distinct = profile.distinct.distinct
    if kind == "empty":
        dropped(told, "no values")
    elif distinct == 1 and not profile.missing:
        dropped(told, "the same value in every row")
    elif kind == "sequence":
        dropped(told, "lists of numbers, which catalog/rnn and catalog/transformer read")
    elif kind in ("text", "id"):
        dropped(told, f"{distinct} different words: free text or an id, not a category")
    elif _is_id(profile, found):
        dropped(told, "a different whole number in every row: an id, which would leak or mislead")
        told.kind = "id"
    else:
        return "category" if kind == "many" else kind
    return ""


def _is_id(profile: ColumnProfile, found: TableProfile) -> bool:
    """Whole numbers, each once (but for repeated rows), and a name or an order that says it is an id."""
    repeats = profile.distinct.repeats > found.repeated.repeats
    if profile.missing or not profile.whole or profile.numeric < found.rows or repeats:
        return False
    if _ID_NAME.search(profile.name.lower()) or _ID_NAME.search(profile.name):
        return True
    return profile.counts_up and not _TIME_NAME.search(profile.name)


def _given_kind(profile: ColumnProfile, given: str) -> str:
    """The kind the user gave.

    Raises:
        InvalidInput: with code kind_does_not_fit.
    """
    if given == "text":
        raise refused(
            "kind_does_not_fit",
            f"input.kinds gives column {profile.name!r} as text, which catalog/rnn and catalog/transformer read",
            "input.kinds",
        )
    fitting = {"number": profile.numeric, "date": profile.dated, "boolean": profile.boolean}.get(given, profile.present)
    if fitting < 0.5 * profile.present or not profile.present:
        raise refused(
            "kind_does_not_fit",
            f"input.kinds gives column {profile.name!r} as {given}, but {profile.present - fitting} of its "
            f"{profile.present} values do not read as one",
            "input.kinds",
        )
    if given == "category" and (profile.words is None or not profile.words.counts):
        raise refused(
            "kind_does_not_fit",
            f"input.kinds gives column {profile.name!r} as category, but it has about {profile.distinct.distinct} "
            "different values",
            "input.kinds",
        )
    return given


def _rescued(found: TableProfile, columns: list[Column]) -> list[Feature]:
    """What looks like an id is used after all where there is nothing else."""
    features = []
    for position, told in enumerate(columns):
        if told.kind == "id" and told.used_as == "dropped" and found.columns[position].numeric:
            told.kind, told.used_as, told.why = "number", "feature", "looks like an id, but it is the only column"
            features.append(_feature(found, position, "number"))
    return features


def _bounds(found: TableProfile, position: int) -> tuple[float, float] | None:
    """Of all rows: for the report. What is done about outliers follows from training rows (`training_facts.py`)."""
    return outlier_bounds(found.sample.numbers(position))


def described(found: TableProfile, position: int) -> Column:
    """What the report tells of a column, before its use is decided."""
    profile = found.columns[position]
    told = Column(
        name=profile.name or f"column {position + 1}",
        kind=found_kind(profile, found.rows),
        used_as="feature",
        missing=profile.missing,
        distinct=min(profile.distinct.distinct, profile.present),
        distinct_is_estimate=not profile.distinct.exact,
    )
    if told.kind == "number":
        told.missing = found.rows - profile.numeric
        told.min, told.max, told.mean = profile.low, profile.high, profile.sum / profile.numeric
        bounds = _bounds(found, position)
        if bounds:
            numbers = found.sample.numbers(position)
            outside = int(((numbers < bounds[0]) | (numbers > bounds[1])).sum())
            told.outliers = round(outside * found.rows / len(numbers))
    elif told.kind in ("boolean", "category", "many") and profile.words is not None:
        told.top = dict(profile.words.top(10))
    elif told.kind == "date":
        told.missing = found.rows - profile.dated
    return told


def _warn_of_extremes(report: Report, feature: Feature, told: Column) -> None:
    """One number far beyond all others makes their differences vanish when columns are scaled."""
    if feature.bounds is None or told.min is None or told.max is None or not told.outliers:
        return
    low, high = feature.bounds
    reach = _EXTREME * (high - low)
    if told.min < low - reach or told.max > high + reach:
        report.warn(
            "extreme_outliers",
            f"column {told.name!r} has {told.outliers} outliers, some of them extreme ({told.min:g} to {told.max:g}; "
            f'the others lie in {low:g} to {high:g}); input.clean {{"outliers": "clip"}} moves them in',
            told.name,
        )


def _warn_of_bounds(report: Report, plan: Plan, options: TrainingInput) -> None:
    """Rules about outliers touch the test part: its metrics are a little too good."""
    rule = options.clean.outliers
    if rule == "keep" or all(feature.bounds is None for feature in plan.features):
        return
    done = "moved in" if rule == "clip" else "left out"
    later = (
        "moved in as well" if rule == "clip" else "taken as they are, so that metrics may be better than predictions"
    )
    report.warn(
        "whole_file_statistics",
        f"outliers are {done} in the test part too (input.clean.outliers), by the bounds of the training rows; a "
        f"prediction's numbers are {later}",
    )


def _warn_of_labels(report: Report, recipe: str) -> None:
    """A recipe that guesses no target reads a column of labels like any other."""
    for name in report.features if recipe in TASK_WITHOUT_TARGET and not report.target else ():
        if name in TARGET_NAMES[:4]:
            report.warn(
                "label_is_input",
                f"column {name!r} is read like the others; if it is a label, name it in input.target (it is then kept "
                "for the evaluation only) or in input.drop",
                name,
            )


def warn(report: Report, profile: ColumnProfile, told: Column) -> None:
    """Warn of what is odd about a column."""
    name = told.name
    if told.kind == "id" and told.used_as == "dropped":
        report.warn("id_column", f"column {name!r} looks like an id ({told.why}); to use it, give its kind in "
                    "input.kinds", name)  # fmt: skip
    elif told.why == "the same value in every row":
        report.warn("constant_column", f"column {name!r} has the same value in every row", name)
    elif told.kind == "text" and told.used_as == "dropped":
        report.warn("text_column", f"column {name!r} holds free text, which is not read beside other columns; "
                    "catalog/rnn and catalog/transformer read it alone", name)  # fmt: skip
    if told.kind == "category" and told.used_as == "feature" and told.distinct > MAX_CATEGORIES:
        report.warn(
            "high_cardinality",
            f"column {name!r} has {told.distinct} different words; the {MAX_CATEGORIES} commonest are told apart, the "
            "others count as one",
            name,
        )
    if told.kind not in ("number", "date", "boolean") and profile.words is not None:
        code, sentence = odd_form(profile.words.counts)
        if code:
            report.warn(code, f"column {name!r} {sentence}", name)
    bad = profile.present - profile.numeric
    if told.kind == "number" and bad:
        sentence = f"column {name!r} holds numbers, but {bad} values do not read as one and count as missing"
        report.warn("not_numbers", sentence, name)


def fill(report: Report, found: TableProfile, plan: Plan, columns: list[Column], names: tuple[str, ...]) -> None:
    """Write what was found and decided into the report."""
    report.rows = found.rows
    report.columns = columns
    report.task = plan.task
    report.target = list(names)
    report.features = [feature.name for feature in plan.features]
    report.classes = {word: count for target in plan.targets for word, count in target.counts.items()}
    report.duplicates = found.repeated.repeats
    report.duplicates_are_estimate = not found.repeated.exact
    report.unreadable = found.broken.first
    report.unreadable_count = found.broken.count
    if plan.task == "classification" and report.classes:
        most, least = max(report.classes.values()), min(report.classes.values())
        if most >= 10 * least:
            rare = min(report.classes, key=lambda word: report.classes[word])
            report.warn("imbalance", f"class {rare!r} has {least} rows, the largest class {most}", names[0])


def warn_of_repeats(report: Report, options: TrainingInput) -> None:
    """Tell rows that repeat an earlier one, and what is done about them."""
    if not report.duplicates:
        return
    about = "about " if report.duplicates_are_estimate else ""
    if options.clean.duplicates == "drop":
        told = 'they are left out (input.clean {"duplicates": "drop"})'
    else:
        told = 'the test part may hold rows that were trained on (input.clean {"duplicates": "drop"} leaves them out)'
    report.warn("duplicates", f"{about}{report.duplicates} rows repeat an earlier one; {told}")
