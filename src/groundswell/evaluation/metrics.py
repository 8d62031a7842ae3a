"""Scores: of classes, of tags, of continuous quantities. Undefined is NaN, never 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LOWER_IS_BETTER = frozenset({"rmse", "scatter_index", "unbiased_scatter_index"})
"""Metrics of which less is better; ``bias`` has no better side, of all others more is better."""


def confusion(observed: Codes, predicted: Codes, classes: int) -> Codes:
    """int64 ``[classes, classes]``: row the observed class, column the predicted one, from int64 codes ``[N]``."""
    return np.bincount(observed * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def classification(observed: Codes, predicted: Codes, classes: int) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro-F1 from int64 codes ``[N]``.

    Balanced accuracy is the mean recall and macro-F1 the mean F1 over the classes that were observed; a class that
    was only predicted counts through the errors it makes in the others.
    """
    table = confusion(observed, predicted, classes).astype(np.float64)
    hits, true, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    seen = true > 0
    return {
        "accuracy": float(hits.sum() / true.sum()),
        "balanced_accuracy": float(np.mean(hits[seen] / true[seen])),
        "macro_f1": float(np.mean(2 * hits[seen] / (true[seen] + said[seen]))),
    }


def auroc(observed: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve of ``score`` [N] for 0/1 ``observed`` [N]; ties count half; NaN with one class only.

    The rank form: (sum of ranks of the positives - P (P + 1) / 2) / (P Q).
    """
    positive = np.asarray(observed) > 0
    p, q = int(positive.sum()), int((~positive).sum())
    if p == 0 or q == 0:
        return float("nan")
    ranks = rankdata(np.asarray(score))
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * q))


def average_precision(observed: ArrayLike, score: ArrayLike) -> float:
    """Average precision, the step sum over thresholds of precision times the gain in recall; NaN without positives."""
    positive = (np.asarray(observed) > 0).astype(np.float64)
    if positive.sum() == 0:
        return float("nan")
    value, where = np.unique(-np.asarray(score, np.float64), return_inverse=True)
    gained = np.bincount(where, positive, minlength=len(value))
    found, asked = np.cumsum(gained), np.cumsum(np.bincount(where, minlength=len(value)))
    return float(np.sum(gained * found / asked) / positive.sum())


def multi_label(observed: NDArray[np.floating], score: Floats, tags: Sequence[str]) -> dict[str, float]:
    """AUROC and average precision of float ``[N, T]``: macro (mean over defined tags), micro (all pairs), each tag."""
    each_roc = np.array([auroc(observed[:, t], score[:, t]) for t in range(len(tags))])
    each_ap = np.array([average_precision(observed[:, t], score[:, t]) for t in range(len(tags))])
    result = {
        "macro_auroc": _mean_defined(each_roc),
        "macro_ap": _mean_defined(each_ap),
        "micro_auroc": auroc(observed.ravel(), score.ravel()),
        "micro_ap": average_precision(observed.ravel(), score.ravel()),
    }
    for t, tag in enumerate(tags):
        result[f"auroc:{tag}"] = float(each_roc[t])
        result[f"ap:{tag}"] = float(each_ap[t])
    return result


def _mean_defined(values: Floats) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def regression(observed: Floats, predicted: Floats) -> dict[str, float]:
    """Bias, RMSE, scatter index, unbiased scatter index and R2 of float64 ``[N]`` in one unit.

    bias = mean(predicted - observed); scatter index = RMSE / mean(observed); unbiased scatter index =
    sqrt(RMSE^2 - bias^2) / mean(observed); R2 = 1 - SSE / SST, not the squared correlation.
    """
    error = predicted - observed
    bias, mse, level = float(error.mean()), float(np.mean(error**2)), float(observed.mean())
    spread = float(np.var(observed))
    return {
        "bias": bias,
        "rmse": mse**0.5,
        "scatter_index": mse**0.5 / level if level else float("nan"),
        "unbiased_scatter_index": max(mse - bias**2, 0.0) ** 0.5 / level if level else float("nan"),
        "r2": 1.0 - mse / spread if spread else float("nan"),
    }


def murphy(observed: Floats, predicted: Floats) -> dict[str, float]:
    """The three parts of the mean squared error, population moments: squared bias, (s_m - s_o)^2, 2 s_m s_o (1 - r).

    Murphy 1988, "Skill scores based on the mean square error", Monthly Weather Review 116; in squared units.
    """
    m, o = predicted - predicted.mean(), observed - observed.mean()
    spread_m, spread_o = float(np.sqrt(np.mean(m**2))), float(np.sqrt(np.mean(o**2)))
    return {
        "bias": float(predicted.mean() - observed.mean()) ** 2,
        "spread": (spread_m - spread_o) ** 2,
        "correlation": 2 * (spread_m * spread_o - float(np.mean(m * o))),
    }
