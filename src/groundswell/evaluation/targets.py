"""What a probe is asked to predict: a class, tags that can hold at once, or a value."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.errors import DataError, UsageError, did_you_mean

Task = Literal["classification", "multi-label", "regression"]
TASKS: tuple[str, ...] = get_args(Task)
_MOST_CLASSES = 50  # whole numbers with more distinct values than this are measurements, not classes


@dataclass(frozen=True)
class Target:
    """A target with its values.

    Attributes
    ----------
    name : str
        The column, or the pattern of the columns.
    columns : tuple of str
        One column, or one per tag.
    task : Task
    classes : tuple of str
        The classes, or the tags; empty for regression.
    observed : int64 [N] class codes, or float64 [N, T] tags, or float64 [N] values
    known : bool [N]
        Where the target is known; the other rows are left out and counted.
    """

    name: str
    columns: tuple[str, ...]
    task: Task
    classes: tuple[str, ...]
    observed: NDArray[Any]
    known: NDArray[np.bool_]


def read_target(frame: pd.DataFrame, name: str, task: str | None = None) -> Target:
    """The target called ``name``: a column (``label_`` may be left off) or a pattern such as ``label_tag_*``.

    The task is told by the values unless given: a pattern is multi-label; text, booleans and few whole numbers are
    classes; anything else is regression.

    Raises
    ------
    UsageError
        For an unknown column or task.
    DataError
        When the values do not fit the task.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"there is no task {task!r}", fix=did_you_mean(task, TASKS))
    columns = _columns(frame, name)
    values = frame[columns]
    known = values.notna().all(axis=1).to_numpy(dtype=bool)
    if not known.any():
        raise DataError("the target is known for no row", where=name)
    found = task or _guess(values[known], is_pattern="*" in name or len(columns) > 1)
    if found == "classification":
        return _classes(name, columns, values.iloc[:, 0], known)
    numbers = values.apply(pd.to_numeric, errors="coerce").astype(np.float64).to_numpy()
    bad = known & ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} values of the target are not numbers",
            where=name,
            why=f"for example {values[bad].iloc[0].tolist()[0]!r}",
            fix="use --task classification if they are classes",
        )
    if found == "regression":
        if len(columns) > 1:
            raise UsageError("a regression has one target column", where=name, fix="give each with its own --target")
        return Target(name, tuple(columns), "regression", (), numbers[:, 0], known)
    if not np.isin(numbers[known], (0, 1)).all():
        raise DataError("tags must be 0 or 1", where=name, fix="name the tag columns, or use --task regression")
    return Target(name, tuple(columns), "multi-label", tuple(_short(c) for c in columns), numbers, known)


def _short(column: str) -> str:
    return column.removeprefix("label_tag_").removeprefix("label_")


def _columns(frame: pd.DataFrame, name: str) -> list[str]:
    names = [str(c) for c in frame.columns]
    for wanted in (name, f"label_{name}"):
        if "*" in wanted:
            matching = sorted(fnmatch.filter(names, wanted))
            if matching:
                return matching
        elif wanted in names:
            return [wanted]
    labels = [c for c in names if c.startswith("label_")]
    raise UsageError(
        f"no column is called {name!r}",
        why="label columns: " + (", ".join(labels) or "none"),
        fix=did_you_mean(name, labels) if labels else "ingest with --labels FILE, then embed again",
    )


def _guess(values: pd.DataFrame, is_pattern: bool) -> Task:
    if is_pattern:
        return "multi-label"
    column = values.iloc[:, 0]
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return "classification"
    numbers = column.to_numpy(dtype=np.float64)
    whole = bool(np.all(numbers == np.round(numbers)))
    return "classification" if whole and len(np.unique(numbers)) <= _MOST_CLASSES else "regression"


def _classes(name: str, columns: list[str], column: pd.Series, known: NDArray[np.bool_]) -> Target:
    text = column[known].map(_as_text)
    classes = tuple(sorted(text.unique(), key=_natural))
    if len(classes) < 2:
        raise DataError(
            f"the target has one class only: {classes[0]}", where=name, fix="choose rows or a label of two classes"
        )
    codes = np.full(len(column), -1, np.int64)
    codes[known] = pd.Categorical(text, categories=list(classes)).codes
    return Target(name, tuple(columns), "classification", classes, codes, known)


def _as_text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(text: str) -> tuple[float, str]:
    """Numbers in numeric order, then words."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
