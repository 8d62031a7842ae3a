"""Weighted nearest neighbours by cosine: the probe without training.

Neighbours vote with ``softmax(similarity / temperature)`` over the top k (the protocol of DINO and DINOv2,
facebookresearch/dinov2 ``dinov2/eval/knn.py``; temperature 0.07).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from groundswell.evaluation.metrics import auroc
from groundswell.evaluation.scaling import standardisation
from groundswell.evaluation.splits import group_codes, hold_out

Scaling = Literal["none", "standardise", "auto"]
Validation = tuple[ArrayLike, ArrayLike]
Floats = NDArray[np.floating]

_BLOCK = 1 << 24  # similarities held at a time: 64 MiB in float32


def unit(vectors: Floats) -> Floats:
    """Rows of float ``[N, D]`` divided by their Euclidean norm (a zero row stays zero)."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Floats = vectors / np.maximum(norm, np.finfo(vectors.dtype).tiny)
    return result


def neighbours(queries: Floats, bank: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """The k nearest of ``bank`` [N, D] to each of ``queries`` [Q, D], both of unit rows, by cosine.

    Returns similarities ``[Q, k]``, largest first, and int64 rows ``[Q, k]``; equal similarities by row.

    Not `search.index.top_k`, which is for few queries and vectors of float32 read block by block: a probe has all its
    vectors in memory and about as many queries as vectors, so the queries are cut, and float64 features stay so.
    """
    k = min(k, len(bank))
    similarity = np.empty((len(queries), k), np.result_type(queries, bank))
    rows = np.empty((len(queries), k), np.int64)
    step = max(1, _BLOCK // len(bank))
    for start in range(0, len(queries), step):
        block = queries[start : start + step] @ bank.T
        top = np.argpartition(-block, k - 1, axis=1)[:, :k] if k < len(bank) else np.tile(np.arange(k), (len(block), 1))
        value = np.take_along_axis(block, top, axis=1)
        order = np.lexsort((top, -value), axis=1)
        similarity[start : start + step] = np.take_along_axis(value, order, axis=1)
        rows[start : start + step] = np.take_along_axis(top, order, axis=1)
    return similarity, rows


def vote(similarity: Floats, targets: Floats, temperature: float) -> NDArray[np.float64]:
    """Mean of ``targets`` [Q, k, T] over k neighbours, weighted by ``softmax(similarity [Q, k] / temperature)``."""
    logits = similarity.astype(np.float64) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mean: NDArray[np.float64] = np.einsum("qk,qkt->qt", weights, targets)
    return mean


class _Neighbours(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What the three estimators share: a bank of unit vectors and a matrix of targets."""

    def __init__(
        self,
        k: int | Sequence[int] = 20,
        temperature: float = 0.07,
        scaling: Scaling = "none",
        fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.scaling = scaling
        self.fraction = fraction
        self.seed = seed

    def _loss(self, predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
        return float(np.mean((predicted - targets) ** 2))

    def _fit(
        self,
        X: Floats,
        targets: NDArray[np.float64],
        groups: ArrayLike | None,
        validation: tuple[Floats, NDArray[np.float64]] | None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        ks = [int(self.k)] if isinstance(self.k, int | np.integer) else [int(k) for k in self.k]
        if min(ks) < 1:
            raise ValueError(f"k must be at least 1, not {min(ks)}")
        if self.scaling not in ("none", "standardise", "auto"):
            raise ValueError(f"scaling must be none, standardise or auto, not {self.scaling!r}")
        scalings: list[str] = ["none", "standardise"] if self.scaling == "auto" else [self.scaling]
        best = (ks[0], scalings[0])
        if len(ks) * len(scalings) > 1:
            best = self._choose(X, targets, ks, scalings, groups, validation, labels)
        self.k_, self.scaling_ = best
        self._remember(X, targets, self.scaling_)

    def _choose(
        self,
        X: Floats,
        targets: NDArray[np.float64],
        ks: list[int],
        scalings: list[str],
        groups: ArrayLike | None,
        validation: tuple[Floats, NDArray[np.float64]] | None,
        labels: NDArray[np.int64] | None,
    ) -> tuple[int, str]:
        """k and scaling of least loss on ``validation``, or on whole groups held out of the training rows."""
        if validation is None:
            held = hold_out(group_codes(groups, len(X)), self.fraction, self.seed, labels)
            if not held.any():
                return ks[0], scalings[0]
            validation = X[held], targets[held]
            X, targets = X[~held], targets[~held]
        losses: dict[tuple[int, str], float] = {}
        for scaling in scalings:
            self._remember(X, targets, scaling)
            similarity, rows = neighbours(self._prepare(validation[0]), self.bank_, max(ks))
            for k in ks:
                predicted = vote(similarity[:, :k], self.targets_[rows[:, :k]], self.temperature)
                losses[k, scaling] = self._loss(predicted, validation[1])
        return min(losses, key=lambda key: losses[key])

    def _remember(self, X: Floats, targets: NDArray[np.float64], scaling: str) -> None:
        if scaling == "standardise":
            self.mean_, self.scale_ = standardisation(X)
        else:
            self.mean_, self.scale_ = np.zeros(X.shape[1]), np.ones(X.shape[1])
        self.bank_, self.targets_ = self._prepare(X), targets

    def _prepare(self, X: Floats) -> Floats:
        return unit(((X - self.mean_) / self.scale_).astype(X.dtype))

    def _mean_target(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        checked = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        similarity, rows = neighbours(self._prepare(checked).astype(self.bank_.dtype), self.bank_, self.k_)
        return vote(similarity, self.targets_[rows], self.temperature)


class KNNClassifier(ClassifierMixin, _Neighbours):  # type: ignore[misc]
    """k nearest neighbours by cosine, votes ``softmax(similarity / temperature)`` over the top k.

    Parameters
    ----------
    k : int or sequence of int
        Neighbours; of several, the one of least error on held-out groups of the training rows (or on
        ``validation``) is taken. More than there are rows means all of them.
    temperature : float
        0.07 as in DINO.
    scaling : {"none", "standardise", "auto"}
        What is done to the features before the cosine; ``auto`` lets the held-out rows choose.
    fraction, seed
        Size and seed of the held-out part.
    balance : bool
        Divide the votes of each class by its share of the rows, for balanced accuracy.
    """

    def __init__(
        self,
        k: int | Sequence[int] = 20,
        temperature: float = 0.07,
        scaling: Scaling = "none",
        fraction: float = 0.2,
        seed: int = 0,
        balance: bool = False,
    ) -> None:
        super().__init__(k, temperature, scaling, fraction, seed)
        self.balance = balance

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Keep float ``X`` [N, D] and the classes ``y`` [N]; ``groups`` [N] are never split when choosing."""
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        share = np.bincount(codes) / len(codes)
        self.prior_ = share if self.balance else np.ones_like(share)
        pair = None
        if validation is not None:
            observed = np.asarray(validation[1])
            known = np.isin(observed, self.classes_)
            codes_v = np.searchsorted(self.classes_, observed[known])
            pair = np.asarray(validation[0])[known], np.eye(len(self.classes_))[codes_v]
        self._fit(features, np.eye(len(self.classes_))[codes], groups, pair, codes)
        return self

    def _loss(self, predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
        wrong = (predicted / self.prior_).argmax(axis=1) != targets.argmax(axis=1)
        if not self.balance:
            return float(wrong.mean())
        count = targets.sum(axis=0)
        return float(np.mean((wrong @ targets)[count > 0] / count[count > 0]))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """float64 ``[N, classes]``: the share of the votes of each class, in the order of ``classes_``."""
        votes = self._mean_target(X) / self.prior_
        share: NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
        return share

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class with most votes for each row of float ``[N, D]``."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[likeliest]
        return chosen


class KNNRegressor(RegressorMixin, _Neighbours):  # type: ignore[misc]
    """Weighted mean of the targets of the k nearest neighbours by cosine; parameters as `KNNClassifier`."""

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Keep float ``X`` [N, D] and the targets ``y`` [N] or [N, T]."""
        features, observed = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        target = np.asarray(observed, np.float64)
        self.single_ = target.ndim == 1
        pair = None
        if validation is not None:
            held = np.asarray(validation[0])
            pair = held, np.asarray(validation[1], np.float64).reshape(len(held), -1)
        self._fit(features, target.reshape(len(target), -1), groups, pair)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """float64 ``[N]`` or ``[N, T]``, in the units of the targets."""
        mean = self._mean_target(X)
        return mean[:, 0] if self.single_ else mean

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KNNMultiLabel(ClassifierMixin, _Neighbours):  # type: ignore[misc]
    """Several tags that can hold at once: the weighted share of neighbours with each; parameters as `KNNClassifier`.

    Of several k or scalings the one with the largest mean AUROC on held-out groups is taken.
    """

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Keep float ``X`` [N, D] and the tags ``y`` [N, T] of 0 and 1."""
        features, observed = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True)
        tags = np.asarray(observed, np.float64).reshape(len(features), -1)
        pair = None if validation is None else (np.asarray(validation[0]), np.asarray(validation[1], np.float64))
        self.classes_ = [np.array([0, 1])] * tags.shape[1]
        self._fit(features, tags, groups, pair)
        return self

    def _loss(self, predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
        each = np.array([auroc(targets[:, t], predicted[:, t]) for t in range(targets.shape[1])])
        return 1.0 - float(np.nanmean(each)) if np.isfinite(each).any() else 0.5

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """float64 ``[N, T]``: the share of the votes for each tag."""
        return self._mean_target(X)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """int64 ``[N, T]``: 1 where a tag has at least half of the votes."""
        return (self.predict_proba(X) >= 0.5).astype(np.int64)
