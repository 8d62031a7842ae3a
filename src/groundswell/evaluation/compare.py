"""Scores of tables side by side, and the paired differences between them, with intervals over the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from groundswell.evaluation import metrics
from groundswell.evaluation.intervals import (
    Interval,
    Statistic,
    bootstrap_t,
    classification_statistic,
    multi_label_statistic,
    ranking_statistic,
    regression_statistic,
    together,
)
from groundswell.evaluation.targets import Target

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Record = dict[str, Any]

_MOST_DRAWS_OF_CURVES = 400  # every draw ranks every tag anew: a thousand would take minutes


class Draws(Protocol):
    """The settings that intervals need."""

    @property
    def draws(self) -> int: ...
    @property
    def seed(self) -> int: ...


def metric_names(target: Target) -> tuple[str, ...]:
    """The metrics of a task, in the order in which they are reported."""
    if target.task == "classification":
        ranked = ("auroc",) if len(target.classes) == 2 else ()
        return ("accuracy", "balanced_accuracy", "macro_f1", *ranked)
    if target.task == "regression":
        return ("bias", "rmse", "scatter_index", "unbiased_scatter_index", "r2")
    each = tuple(f"{kind}:{tag}" for tag in target.classes for kind in ("auroc", "ap"))
    return ("macro_auroc", "macro_ap", "micro_auroc", "micro_ap", *each)


def mean_of(family: str) -> str:
    """The name under which the mean over the seeds of a family is reported."""
    return f"{family} (mean of seeds)"


def pairs(
    model: str,
    controls: Sequence[str],
    families: Mapping[str, Sequence[str]],
    both: str | None = None,
    statistics: str | None = None,
) -> list[tuple[str, str]]:
    """Which table is compared with which: the model with each control and each family's mean, both with each part."""
    made = [(both, statistics), (both, model)] if both is not None and statistics is not None else []
    return made + [(model, control) for control in controls] + [(model, mean_of(family)) for family in families]


def compare(
    target: Target,
    parts: Mapping[str, Rows],
    codes: Rows,
    scores: Mapping[str, Mapping[str, Scores]],
    compared: Sequence[tuple[str, str]],
    families: Mapping[str, Sequence[str]],
    settings: Draws,
) -> dict[str, list[Record]]:
    """Judge the scores of several tables over the same rows.

    Parameters
    ----------
    target : Target
    parts : mapping of part to int64 [n]
        The rows of each part.
    codes : int64 [N]
        The group of each row.
    scores : mapping ``[table][part]`` to float64 [n, classes] or [n, 1]
    compared : sequence of (table, control)
    families : mapping of name to tables
        Seeds of one random encoder.

    Returns
    -------
    dict
        Records ``scores``, ``differences``, ``confusion`` and ``decomposition``, ready for JSON.
    """
    found: dict[str, list[Record]] = {"scores": [], "differences": [], "confusion": [], "decomposition": []}
    family_of = {member: name for name, members in families.items() for member in members}
    draws = min(settings.draws, _MOST_DRAWS_OF_CURVES) if target.task == "multi-label" else settings.draws
    terms = {table: {table: 1.0} for table in scores}
    terms |= {mean_of(name): dict.fromkeys(members, 1 / len(members)) for name, members in families.items()}
    for part, rows in parts.items():
        groups, of_row = np.unique(codes[rows], return_inverse=True)
        statistics = {t: _statistic(target, rows, s[part], of_row, len(groups)) for t, s in scores.items()}
        contrasts = {("score", name): coefficients for name, coefficients in terms.items()}
        for table, control in compared:
            contrasts[table, control] = _minus(terms[table], terms[control])
        by_key = dict(enumerate(contrasts))
        intervals = bootstrap_t(
            statistics, {str(i): contrasts[k] for i, k in by_key.items()}, len(groups), draws, seed=settings.seed
        )
        got = {key: intervals[str(i)] for i, key in by_key.items()}
        for name, members in terms.items():
            spread = _seed_spread(got, members) if len(members) > 1 else {}
            for metric, interval in got["score", name].items():
                extra = {"seed_standard_deviation": spread[metric]} if spread else {}
                one: Record = {"part": part, "table": name, "family": family_of.get(name), "metric": metric}
                found["scores"].append({**one, "rows": len(rows), **vars(interval), **extra})
        for table, control in compared:
            best = _best_seed(got, families.get(family_of.get(control, ""), ()))
            for metric, interval in got[table, control].items():
                row: Record = {"part": part, "table": table, "control": control, "family": family_of.get(control)}
                row |= {"best_seed": best.get(metric) == control, "metric": metric, "rows": len(rows)}
                found["differences"].append({**row, **vars(interval), "favours": favours(metric, interval)})
        for table, score in scores.items():
            _add_details(found, target, rows, part, table, score[part])
    return found


def favours(metric: str, difference: Interval) -> str | None:
    """``table`` or ``control`` where the interval of table minus control lies on one side of zero, else None."""
    if metric == "bias" or not (difference.low > 0 or difference.high < 0):
        return None
    return "table" if (difference.low > 0) != (metric in metrics.LOWER_IS_BETTER) else "control"


def _minus(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {t: first.get(t, 0.0) - second.get(t, 0.0) for t in {**first, **second}}


def _statistic(target: Target, rows: Rows, score: Scores, codes: Rows, groups: int) -> Statistic:
    observed = target.observed[rows]
    if target.task == "classification":
        chosen = classification_statistic(observed, score.argmax(axis=1), len(target.classes), codes, groups)
        if len(target.classes) > 2:
            return chosen
        return together(chosen, ranking_statistic(observed.astype(np.float64), score[:, 1], codes, groups))
    if target.task == "multi-label":
        return multi_label_statistic(observed, score, target.classes, codes, groups)
    return regression_statistic(observed, score[:, 0], codes, groups)


def _seed_spread(
    got: Mapping[tuple[str, str], Mapping[str, Interval]], members: Mapping[str, float]
) -> dict[str, float]:
    """Standard deviation over seeds of each metric: reported beside the interval over groups, never pooled with it."""
    one = got["score", next(iter(members))]
    return {metric: float(np.std([got["score", m][metric].value for m in members], ddof=1)) for metric in one}


def _best_seed(got: Mapping[tuple[str, str], Mapping[str, Interval]], members: Sequence[str]) -> dict[str, str]:
    """For each metric the seed that scores best."""
    if not members:
        return {}
    sign = {m: -1.0 if m in metrics.LOWER_IS_BETTER else 1.0 for m in got["score", members[0]]}
    return {m: max(members, key=lambda table: s * got["score", table][m].value) for m, s in sign.items()}


def _add_details(
    found: dict[str, list[Record]], target: Target, rows: Rows, part: str, table: str, score: Scores
) -> None:
    observed = target.observed[rows]
    if target.task == "classification":
        matrix = metrics.confusion(observed, score.argmax(axis=1), len(target.classes))
        found["confusion"].append({"part": part, "table": table, "matrix": matrix.tolist()})
    elif target.task == "regression":
        found["decomposition"].append({"part": part, "table": table, **metrics.murphy(observed, score[:, 0])})
