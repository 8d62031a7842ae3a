"""What one probe is about: a target on the rows where it is known, the settings, the split and the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from groundswell.config import Settings
from groundswell.errors import UsageError, did_you_mean
from groundswell.evaluation.splits import Audit, Fold, Split, audit, by_column, group_codes, leave_groups_out
from groundswell.evaluation.targets import Target, Task

Rows = NDArray[np.int64]


class ProbeSettings(Settings):
    """What to probe, and how.

    ``targets`` are label columns or patterns (`targets.read_target`). The split is given by the column ``split``
    (rows that say ``train_value`` train, ``validation_value`` choose hyper-parameters, every other value is a part),
    or made by ``cv="group"`` in ``folds`` folds. ``group`` names the column of what must never straddle the split;
    ``auto`` is ``group`` where it is known, ``none`` makes every row its own. ``both`` adds model and statistics side
    by side: by default for regressions. ``metric`` is the one to show (default: accuracy, or balanced accuracy where
    training classes differ more than 1.5-fold; macro AUROC; RMSE). ``balance`` weights classes alike in fitting: by
    default where balanced accuracy is shown.
    """

    targets: tuple[str, ...] = Field(min_length=1)
    protocols: tuple[Literal["knn", "linear"], ...] = Field(default=("knn", "linear"), min_length=1)
    task: Task | None = None
    split: str | None = None
    train_value: str = "train"
    validation_value: str = "val"
    cv: Literal["group"] | None = None
    folds: int | None = Field(default=None, ge=2)
    group: str = "auto"
    where: str | None = None
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(20,), min_length=1)
    both: bool | None = None
    metric: str | None = None
    balance: bool | None = None
    draws: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0, lt=2**62)
    allow_overlap: bool = False

    @field_validator("folds")
    @classmethod
    def _folds_of_something(cls, folds: int | None, info: ValidationInfo) -> int | None:
        if folds is not None and info.data.get("cv") is None:
            raise ValueError("folds are those of a cross-validation: give cv (--cv group) too, or leave them out")
        return folds


@dataclass(frozen=True)
class Case:
    """A target on the rows where it is known, with its split and groups."""

    target: Target
    split: Split
    codes: Rows
    group_column: str | None
    found: Audit

    @property
    def parts(self) -> dict[str, Rows]:
        """The rows of each evaluated part."""
        return self.split.parts

    def describe(self) -> dict[str, Any]:
        """Facts for the record: how many rows, groups and of each class, in training and in each part."""
        train = np.unique(np.concatenate([f.train for f in self.split.folds]))
        chosen = np.unique(np.concatenate([f.validation for f in self.split.folds]))
        sets = {"train": train, **({"validation": chosen} if len(chosen) else {})}
        return {
            "name": self.target.name,
            "columns": list(self.target.columns),
            "task": self.target.task,
            "classes": list(self.target.classes),
            "unknown": int((~self.target.known).sum()),
            "split": self.split.kind,
            "group": self.group_column,
            "overlap": [{"kind": kind, "shared": n} for kind, n in self.found.shared.items()],
            **{name: self._count(rows) for name, rows in sets.items()},
            "parts": [{"name": name, **self._count(rows)} for name, rows in self.parts.items()],
        }

    def _count(self, rows: Rows) -> dict[str, Any]:
        observed = self.target.observed[rows]
        facts: dict[str, Any] = {"rows": len(rows), "groups": len(np.unique(self.codes[rows]))}
        if self.target.task == "regression":
            return facts | {"mean": float(observed.mean()), "standard_deviation": float(observed.std())}
        if self.target.task == "multi-label":
            count = observed.sum(axis=0).astype(int)
        else:
            count = np.bincount(observed, minlength=len(self.target.classes))
            facts["largest_class_share"] = float(count.max() / len(rows))
        return facts | {"of_class": dict(zip(self.target.classes, count.tolist(), strict=True))}


def make_case(frame: pd.DataFrame, target: Target, settings: ProbeSettings) -> Case:
    """The rows, groups and split of a target, audited.

    Raises
    ------
    UsageError, DataError
        When there is nothing to split by, or two things, or training and evaluated rows share groups.
    """
    if settings.split is not None and settings.cv is not None:
        raise UsageError("a split column and a cross-validation exclude each other", fix="give --split or --cv")
    column = _group_column(frame, settings.group)
    codes = group_codes(None if column is None else frame[column], len(frame))
    known = np.flatnonzero(target.known)
    if settings.cv is not None:
        split = _renumber(leave_groups_out(codes[known], settings.folds, settings.seed), known)
    else:
        name = settings.split or "split"
        if name not in frame or frame[name].isna().all():
            raise UsageError(
                f"the tables have no column {name!r} to split by",
                fix="name one with --split COLUMN, or use --cv group; "
                + did_you_mean(name, [str(c) for c in frame.columns if frame[c].nunique() in range(2, 9)]),
            )
        split = _renumber(by_column(frame[name].iloc[known], settings.train_value, settings.validation_value), known)
    found = audit(frame, split, codes, column, settings.allow_overlap)
    return Case(target, split, codes, column, found)


def _renumber(split: Split, rows: Rows) -> Split:
    """A split of some rows as a split of the frame they came from."""
    folds = tuple(
        Fold(rows[f.train], rows[f.validation], {name: rows[part] for name, part in f.parts.items()})
        for f in split.folds
    )
    return Split(split.kind, folds)


def _group_column(frame: pd.DataFrame, name: str) -> str | None:
    if name == "none":
        return None
    if name == "auto":
        return "group" if "group" in frame and frame["group"].notna().any() else None
    for wanted in (name, f"label_{name}"):
        if wanted in frame:
            return wanted
    raise UsageError(f"no column is called {name!r}", fix=did_you_mean(name, map(str, frame.columns)))


def unbalanced(case: Case) -> bool:
    """Whether the most frequent class of the training rows is more than 1.5 times as frequent as the rarest."""
    train = np.concatenate([f.train for f in case.split.folds])
    count = np.bincount(case.target.observed[train])
    return bool(count.max() > 1.5 * count[count > 0].min())


def headline(case: Case) -> str:
    """The metric to show: accuracy only where the classes of the training rows are about balanced."""
    if case.target.task == "regression":
        return "rmse"
    if case.target.task == "multi-label":
        return "macro_auroc"
    return "balanced_accuracy" if unbalanced(case) else "accuracy"
