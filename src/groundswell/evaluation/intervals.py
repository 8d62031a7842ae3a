"""Intervals that resample groups, studentised (bootstrap-t), for scores and for paired differences.

Rows of one group (one datatake) are not independent: intervals that resample rows cover the truth a third of the
time where they claim 95 % (measured, ``curation-detection-reliability.md`` B). Of the ways to resample few groups the
bootstrap-t does best (Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered
errors", Review of Economics and Statistics 90). A difference between two tables is resampled as one: the same draw for
both, one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]

FEW_GROUPS = 8
"""Under this many groups an interval is `indicative`: measured coverage falls below its name."""
_SMALLEST = 0.2  # of the standard error; see bootstrap_t
_CHUNK = 1 << 22  # numbers in one array of influences: 32 MiB


@dataclass(frozen=True)
class Interval:
    """A score or difference with its interval.

    ``low`` and ``high`` are NaN where the score does not vary between groups or there is only one group;
    ``indicative`` says that there are fewer than eight groups.
    """

    value: float
    low: float
    high: float
    standard_error: float
    groups: int
    indicative: bool


@dataclass(frozen=True)
class Statistic:
    """Metrics as a differentiable function of the weight of each group.

    ``evaluate`` maps float64 ``[B, G]`` weights to one float64 ``[B]`` per metric; each is homogeneous of degree 0, so
    its gradient is the influence of each group. ``bounds`` are the least and largest value each metric can have.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    evaluate: Callable[[Tensor], list[Tensor]]


def bootstrap_t(
    statistics: Mapping[str, Statistic],
    contrasts: Mapping[str, Mapping[str, float]],
    groups: int,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Intervals of linear contrasts of tables, for every metric.

    Each draw resamples G groups with replacement; the contrast of the draw is studentised with its own delta-method
    standard error, ``se^2 = G/(G-1) sum_g w_g I_g^2``, I the influence of a group. The interval is
    ``[value - t_high se, value - t_low se]``. The standard error of a draw is not let below a fifth of the sample's,
    so that draws in which nothing varies (all right) do not send a bound to infinity.

    Parameters
    ----------
    statistics : mapping
        Table name to its metrics; the same metrics and groups in each.
    contrasts : mapping
        Name to the coefficient of each table: ``{"model": 1, "statistics": -1}``.
    groups : int
        G, the number of groups.
    draws, level, seed
        Number of resamples, nominal coverage, seed.

    Returns
    -------
    dict
        ``[contrast][metric]`` to `Interval`.
    """
    first = next(iter(statistics.values()))
    tables = list(statistics)
    matrix = np.array([[terms.get(t, 0.0) for t in tables] for terms in contrasts.values()])
    value, error = _studentise(statistics, matrix, np.ones((1, groups)))
    value, error = value[0], error[0]  # [contrasts, metrics]
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // (groups * len(tables) * len(first.names)))
    ts = []
    for start in range(0, draws if groups > 1 else 0, size):
        weights = _resample(generator, min(size, draws - start), groups)
        v, e = _studentise(statistics, matrix, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            ts.append((v - value) / np.maximum(e, _SMALLEST * error))
    tail = (1 - level) / 2
    t = np.concatenate(ts) if ts else np.full((1, *value.shape), np.nan)
    result: dict[str, dict[str, Interval]] = {}
    for c, name in enumerate(contrasts):
        spread = sum(abs(x) for x in contrasts[name].values()) > 1.5  # a difference, not a score
        result[name] = {}
        for m, metric in enumerate(first.names):
            low, high = np.nan, np.nan
            known = t[:, c, m][np.isfinite(t[:, c, m])]
            if error[c, m] > 0 and known.size > draws / 2:
                below, above = np.quantile(known, [tail, 1 - tail])
                least, largest = first.bounds[m]
                if spread:
                    least, largest = least - largest, largest - least
                low = max(value[c, m] - above * error[c, m], least)
                high = min(value[c, m] - below * error[c, m], largest)
            result[name][metric] = Interval(
                float(value[c, m]), float(low), float(high), float(error[c, m]), groups, groups < FEW_GROUPS
            )
    return result


def _resample(generator: np.random.Generator, draws: int, groups: int) -> Floats:
    """float64 ``[draws, groups]``: how often each group is drawn in each of the draws."""
    picked = generator.integers(0, groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * groups).reshape(draws, groups).astype(np.float64)


def _studentise(statistics: Mapping[str, Statistic], matrix: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Value and standard error of each contrast and metric in each draw: two float64 ``[B, contrasts, metrics]``."""
    values, influences = [], []
    for statistic in statistics.values():
        w = torch.from_numpy(weights).requires_grad_(True)
        result = statistic.evaluate(w)
        slopes = [torch.autograd.grad(r.nan_to_num().sum(), w, retain_graph=True)[0] for r in result]
        values.append(torch.stack(result, dim=1).detach().numpy())
        influences.append(torch.stack(slopes).numpy())  # [metrics, B, G]
    value = np.einsum("ct,tbm->bcm", matrix, np.stack(values))
    groups = weights.shape[1]
    factor = groups / max(groups - 1, 1)
    error = np.empty_like(value)
    stacked = np.stack(influences)
    for c, row in enumerate(matrix):
        influence = np.tensordot(row, stacked, axes=1)  # [metrics, B, G]
        error[:, c] = np.sqrt(factor * np.einsum("bg,mbg,mbg->bm", weights, influence, influence))
    # a metric that no draw of the weights can define (a tag without positives) has no error either
    error[np.isnan(value)] = np.nan
    return value, np.where(error > 1e-12, error, np.where(np.isnan(error), np.nan, 0.0))


def _sums(rows: Floats, codes: Codes, groups: int) -> Tensor:
    """Column sums of float64 ``[N, P]`` within each group: ``[G, P]``."""
    total = np.zeros((groups, rows.shape[1]))
    np.add.at(total, codes, rows)
    return torch.from_numpy(total)


def classification_statistic(observed: Codes, predicted: Codes, classes: int, codes: Codes, groups: int) -> Statistic:
    """Accuracy, balanced accuracy and macro-F1 (as in `metrics.classification`) of int64 codes ``[N]``."""
    eye = np.eye(classes)
    hit = eye[observed] * (observed == predicted)[:, None]
    sums = _sums(np.concatenate([hit, eye[observed], eye[predicted]], axis=1), codes, groups)

    def evaluate(weights: Tensor) -> list[Tensor]:
        hits, true, said = (weights @ sums).reshape(-1, 3, classes).unbind(1)
        seen = (true > 0).double()
        recall = (hits / true.clamp_min(1e-9) * seen).sum(1) / seen.sum(1)
        f1 = (2 * hits / (true + said).clamp_min(1e-9) * seen).sum(1) / seen.sum(1)
        return [hits.sum(1) / true.sum(1), recall, f1]

    return Statistic(("accuracy", "balanced_accuracy", "macro_f1"), ((0.0, 1.0),) * 3, evaluate)


def regression_statistic(observed: Floats, predicted: Floats, codes: Codes, groups: int) -> Statistic:
    """Bias, RMSE, scatter indices and R2 (as in `metrics.regression`) of float64 ``[N]``."""
    error, level = predicted - observed, float(observed.mean())
    shifted = observed - level  # sums of squares about the mean keep their digits
    sums = _sums(np.stack([np.ones_like(error), error, error**2, shifted, shifted**2], axis=1), codes, groups)

    def evaluate(weights: Tensor) -> list[Tensor]:
        n, e, ee, o, oo = (weights @ sums).unbind(1)
        bias, mse, mean = e / n, ee / n, level + o / n
        rmse = mse.clamp_min(1e-300).sqrt()
        unbiased = (mse - bias**2).clamp_min(1e-300).sqrt()
        skill = 1 - mse / (oo / n - (o / n) ** 2)
        return [bias, rmse, rmse / mean, unbiased / mean, skill]

    names = ("bias", "rmse", "scatter_index", "unbiased_scatter_index", "r2")
    inf = float("inf")
    return Statistic(names, ((-inf, inf), (0, inf), (-inf, inf), (-inf, inf), (-inf, 1)), evaluate)


def multi_label_statistic(observed: Floats, score: Floats, tags: Sequence[str], codes: Codes, groups: int) -> Statistic:
    """AUROC and average precision (as in `metrics.multi_label`) of float64 ``[N, T]``."""
    count = len(tags)
    curves = [_Curve(observed[:, t], score[:, t], codes, groups) for t in range(count)]
    pooled = _Curve(observed.ravel(), score.ravel(), np.repeat(codes, count), groups)

    def evaluate(weights: Tensor) -> list[Tensor]:
        each = [curve(weights) for curve in curves]
        macro = [_mean_known(torch.stack([pair[kind] for pair in each])) for kind in (0, 1)]
        return [*macro, *pooled(weights), *(value for pair in each for value in pair)]

    names = ["macro_auroc", "macro_ap", "micro_auroc", "micro_ap"]
    names += [f"{kind}:{tag}" for tag in tags for kind in ("auroc", "ap")]
    return Statistic(tuple(names), ((0.0, 1.0),) * len(names), evaluate)


def ranking_statistic(observed: Floats, score: Floats, codes: Codes, groups: int) -> Statistic:
    """AUROC of one float64 ``[N]`` score for 0/1 ``observed``."""
    curve = _Curve(observed, score, codes, groups)
    return Statistic(("auroc",), ((0.0, 1.0),), lambda weights: [curve(weights)[0]])


def together(first: Statistic, second: Statistic) -> Statistic:
    """The metrics of both."""
    return Statistic(
        first.names + second.names,
        first.bounds + second.bounds,
        lambda weights: first.evaluate(weights) + second.evaluate(weights),
    )


def _mean_known(values: Tensor) -> Tensor:
    """Mean over the first dimension of what is not NaN; NaN where nothing is known."""
    known = torch.isfinite(values)
    return torch.where(known, values, 0.0).sum(0) / known.sum(0)


class _Curve:
    """AUROC and average precision of one score as a function of group weights.

    Both are sums over distinct thresholds of the weight of positives and negatives at and above each; ties count half
    in the AUROC, and together in the precision.
    """

    def __init__(self, observed: Floats, score: Floats, codes: Codes, groups: int) -> None:
        order = np.argsort(-score, kind="stable")
        value = np.unique(-score[order], return_inverse=True)[1]
        self.thresholds = int(value.max()) + 1
        self.place = torch.from_numpy(value.astype(np.int64))
        self.group = torch.from_numpy(codes[order])
        self.positive = torch.from_numpy((observed[order] > 0).astype(np.float64))

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        row = weights[:, self.group]
        empty = torch.zeros(len(weights), self.thresholds, dtype=weights.dtype)
        positive = empty.index_add(1, self.place, row * self.positive)
        negative = empty.index_add(1, self.place, row * (1 - self.positive))
        p, q = positive.sum(1), negative.sum(1)
        above, asked = negative.cumsum(1), (positive + negative).cumsum(1)
        worse = q[:, None] - above + negative / 2
        roc = (positive * worse).sum(1) / (p * q).clamp_min(1e-9)
        precision = (positive * positive.cumsum(1) / asked.clamp_min(1e-9)).sum(1) / p.clamp_min(1e-9)
        nan = torch.full_like(p, torch.nan)
        return torch.where((p > 0) & (q > 0), roc, nan), torch.where(p > 0, precision, nan)
