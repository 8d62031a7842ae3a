"""Splits that no group straddles, and the audit of what training and test rows share.

The unit of a split is the group (the datatake where it is known), not the image: images of one pass share the sea
state, the incidence and the noise, and a random split over them measures memory (reference: Kattenborn et al. 2022,
Ploton et al. 2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from groundswell.errors import DataError, UsageError, did_you_mean
from groundswell.rng import permutation

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows to train on, rows to choose hyper-parameters on (may be empty), and the parts to evaluate.

    Each is int64 ``[n]``; ``parts`` maps the name of a part to its rows.
    """

    train: Rows
    validation: Rows
    parts: Mapping[str, Rows]


@dataclass(frozen=True)
class Split:
    """One fold of a given split, or the folds of a cross-validation whose predictions are pooled."""

    kind: str
    folds: tuple[Fold, ...]

    @property
    def parts(self) -> dict[str, Rows]:
        """Every evaluated part with its rows, pooled over folds."""
        names = list(dict.fromkeys(name for fold in self.folds for name in fold.parts))
        return {n: np.concatenate([f.parts[n] for f in self.folds if n in f.parts]) for n in names}


def group_codes(groups: ArrayLike | pd.Series | None, rows: int) -> Rows:
    """int64 ``[rows]``: the number of each row's group, 0-based; a row without a group is its own group."""
    if groups is None:
        return np.arange(rows, dtype=np.int64)
    codes, names = pd.factorize(pd.Series(np.asarray(groups, dtype=object)), use_na_sentinel=True)
    unknown = codes < 0
    codes = codes.astype(np.int64)
    codes[unknown] = len(names) + np.arange(int(unknown.sum()))
    return codes


def by_column(values: pd.Series, train: str = "train", validation: str = "val") -> Split:
    """A split given by a column: ``train``, optionally ``val``, and every other value evaluated as its own part.

    Rows where the column is null are left out.

    Raises
    ------
    UsageError
        When no row is for training, or none for anything else.
    """
    text = values.astype("string")
    names = [str(n) for n in text.dropna().unique()]
    if train not in names:
        raise UsageError(
            f"no row of the split column says {train!r}",
            where=f"column {values.name}",
            why="its values: " + ", ".join(sorted(names)[:12]),
            fix=f"name the value that marks training rows with --train-value ({did_you_mean(train, names)})",
        )
    rows = {name: np.flatnonzero((text == name).fillna(False).to_numpy(dtype=bool)).astype(np.int64) for name in names}
    parts = {name: rows[name] for name in sorted(names, key=_part_order) if name not in (train, validation)}
    if not parts:
        raise UsageError(
            "the split column has training rows only, so there is nothing to evaluate",
            where=f"column {values.name}",
            fix="use --cv group for a cross-validation instead",
        )
    fold = Fold(rows[train], rows.get(validation, np.empty(0, np.int64)), parts)
    return Split(f"column {values.name}", (fold,))


def _part_order(name: str) -> tuple[bool, str]:
    return name != "test", name  # the official test part first, then by name


def leave_groups_out(codes: Rows, folds: int | None = None, seed: int = 0) -> Split:
    """Cross-validation over groups: one group a fold, or ``folds`` folds of whole groups, about equal in rows.

    Parameters
    ----------
    codes : int64 [N]
        The group of each row (`group_codes`).
    folds : int, optional
        Number of folds. By default one per group up to ten groups, else five.

    Raises
    ------
    DataError
        When there are fewer groups than folds, or only one.
    """
    names, sizes = np.unique(codes, return_counts=True)
    count = folds if folds is not None else (len(names) if len(names) <= 10 else 5)
    if len(names) < max(count, 2) or count < 2:
        raise DataError(
            f"{len(names)} group(s) cannot be split into {max(count, 2)} folds",
            fix="choose another column with --group, or fewer --folds (at least 2)",
        )
    shuffled = permutation(seed, len(names), "folds").numpy()
    largest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of = np.empty(len(names), np.int64)
    load = np.zeros(count, np.int64)
    for name in largest_first:
        emptiest = int(np.argmin(load))
        fold_of[name] = emptiest
        load[emptiest] += sizes[name]
    of_row = fold_of[np.searchsorted(names, codes)]
    nothing = np.empty(0, np.int64)
    made = tuple(Fold(np.flatnonzero(of_row != f), nothing, {"cv": np.flatnonzero(of_row == f)}) for f in range(count))
    kind = "leave one group out" if count == len(names) else f"{count} folds of groups"
    return Split(kind, made)


def hold_out(
    codes: Rows, fraction: float = 0.2, seed: int = 0, labels: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """bool ``[N]``: a seeded choice of whole groups, about ``fraction`` of the rows, to choose hyper-parameters on.

    A group is passed over where taking it would leave a class of ``labels`` (int64 ``[N]``) without any row to train
    on, or would make the held-out part larger than half. Nothing is held out where that rules out every group.
    """
    chosen = np.zeros(len(codes), bool)
    order = np.argsort(codes, kind="stable")
    bounds = np.flatnonzero(np.diff(codes[order], prepend=-1, append=-1))
    members = [order[a:b] for a, b in itertools.pairwise(bounds)]
    left = None if labels is None else np.bincount(labels)
    taken, wanted = 0, fraction * len(codes)
    for group in permutation(seed, len(members), "hold out").tolist():
        rows = members[group]
        if taken and taken >= wanted:
            break
        if taken + len(rows) > len(codes) / 2:
            continue
        if left is not None and labels is not None:
            after = left - np.bincount(labels[rows], minlength=len(left))
            if np.any((after == 0) & (left > 0)):
                continue
            left = after
        chosen[rows] = True
        taken += len(rows)
    return chosen


@dataclass(frozen=True)
class Audit:
    """What training and evaluated rows share: the number shared and up to three examples, by kind."""

    shared: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, list[str]] = field(default_factory=dict)


def audit(frame: pd.DataFrame, split: Split, codes: Rows, group_column: str | None, allow: bool = False) -> Audit:
    """Count ids, source hashes and groups on both sides of any fold.

    Raises
    ------
    DataError
        When an id or a group is on both sides, unless ``allow``. Shared source hashes (two chips of one file) are
        counted, not refused.
    """
    kinds: dict[str, pd.Series] = {}
    if "id" in frame:
        kinds["ids"] = frame["id"].astype("string").reset_index(drop=True)
    if "source_hash" in frame and frame["source_hash"].notna().any():
        kinds["source hashes"] = frame["source_hash"].astype("string").reset_index(drop=True)
    if group_column is not None:
        # a row without a group is a group of its own and cannot be shared
        kinds["groups"] = frame[group_column].astype("string").reset_index(drop=True)
    shared: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for kind, values in kinds.items():
        both: set[str] = set()
        for fold in split.folds:
            used = set(values[np.concatenate([fold.train, fold.validation])].dropna())
            for rows in fold.parts.values():
                both |= used & set(values[rows].dropna())
        shared[kind], examples[kind] = len(both), sorted(both)[:3]
    found = Audit(shared, examples)
    for kind in ("ids", "groups"):
        if shared.get(kind) and not allow:
            raise DataError(
                f"{shared[kind]} {kind} are in both the training and the evaluated rows",
                where=f"column {group_column if kind == 'groups' else 'id'}, e.g. {', '.join(examples[kind])}",
                why="scores over such a split measure memory as much as skill",
                fix="split by another column or with --cv group; --group none if that column does not mean leakage; "
                "--allow-overlap to go on and have it recorded in the results",
            )
    return found
