"""Linear probes: multinomial logistic regression, one-vs-rest for tags, ridge regression.

Features are standardised with the statistics of the training rows, so that one grid of penalties means the same for
every encoder. The penalty is chosen on held-out groups of the training rows, then the probe is fitted on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from groundswell.evaluation.knn import Validation
from groundswell.evaluation.logistic import Floats, LogisticProblem, Solution
from groundswell.evaluation.scaling import standardisation
from groundswell.evaluation.splits import Rows, group_codes, hold_out, leave_groups_out

C_GRID: tuple[float, ...] = tuple(float(c) for c in np.logspace(-5, 2, 15))
"""Inverse penalties on the summed loss (scikit-learn's C), half a decade apart."""
PATIENCE = 3
"""Penalties past the best one that are tried before the search for C ends."""
ALPHA_GRID: tuple[float, ...] = tuple(float(a) for a in np.logspace(-6, 3, 40))
"""Ridge penalties relative to the number of rows, which is the mean eigenvalue of standardised features."""


def _cross_entropy(logits: Floats, codes: NDArray[np.int64], balance: bool) -> float:
    """Mean over the rows, or over the classes of the mean over their rows."""
    weight = 1.0 / np.bincount(codes)[codes] if balance else np.ones(len(codes))
    return -float(np.average(log_softmax(logits, axis=1)[np.arange(len(codes)), codes], weights=weight))


def _fit_logistic(
    Z: Floats,
    codes: NDArray[np.int64],
    grid: Sequence[float],
    groups: Rows,
    validation: tuple[Floats, NDArray[np.int64]] | None,
    fraction: float,
    seed: int,
    max_iter: int,
    tol: float,
    balance: bool,
) -> tuple[Solution, float]:
    """The solution, and the C that was chosen.

    The path runs from the strongest penalty to the weakest, each fit started at the last, and ends where the
    validation loss has been above its minimum `PATIENCE` times in a row: the weakest penalties overfit, and cost more
    than all others together. The last fit starts from zero, so that it depends on the rows and the chosen C alone.
    """
    classes = int(codes.max()) + 1
    if len(grid) == 1:
        return LogisticProblem(Z, codes, classes, balance).fit(grid[0], None, tol, max_iter), float(grid[0])
    train = np.ones(len(Z), bool)
    if validation is None:
        held = hold_out(groups, fraction, seed, codes)
        train = ~held
        validation = (Z[held], codes[held]) if held.any() else (Z, codes)
    problem = LogisticProblem(Z[train], codes[train], classes, balance)
    solution: Solution | None = None
    losses: list[float] = []
    for c in sorted(grid):
        solution = problem.fit(c, solution, max(tol, 1e-4), max_iter)
        losses.append(_cross_entropy(solution.logits(validation[0]), validation[1], balance))
        if len(losses) - 1 - int(np.argmin(losses)) == PATIENCE:
            break
    if not train.all():
        problem = LogisticProblem(Z, codes, classes, balance)
    chosen = sorted(grid)[int(np.argmin(losses))]
    return problem.fit(chosen, None, tol, max_iter), float(chosen)


class _Logistic(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The settings that both logistic probes take."""

    def __init__(
        self,
        C: float | None = None,
        grid: Sequence[float] | None = None,
        fraction: float = 0.2,
        seed: int = 0,
        max_iter: int = 1000,
        tol: float = 1e-5,
        balance: bool = False,
    ) -> None:
        self.C = C
        self.grid = grid
        self.fraction = fraction
        self.seed = seed
        self.max_iter = max_iter
        self.tol = tol
        self.balance = balance


class LinearClassifier(ClassifierMixin, _Logistic):  # type: ignore[misc]
    """Multinomial logistic regression on standardised features, C chosen by cross-entropy on held-out groups.

    Parameters
    ----------
    C : float, optional
        Inverse penalty (scikit-learn's convention); chosen from ``grid`` when None.
    grid : sequence of float, optional
        `C_GRID` when None.
    fraction, seed
        Size and seed of the part of the training rows that chooses C.
    max_iter, tol
        Of L-BFGS; ``converged_`` says whether it got there.
    balance : bool
        Weight each class by the inverse of its number of rows, for balanced accuracy.
    """

    def _grid(self) -> Sequence[float]:
        return [self.C] if self.C is not None else (self.grid if self.grid is not None else C_GRID)

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Fit float ``X`` [N, D] to the classes ``y`` [N]; ``groups`` [N] are never split when choosing C.

        With ``validation`` (features, classes) C is chosen there, and the probe is fitted on ``X`` alone.
        """
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; the training rows have 1 class: {self.classes_}")
        self.mean_, self.scale_ = standardisation(features)
        pair = None
        if validation is not None:
            observed = np.asarray(validation[1])
            known = np.isin(observed, self.classes_)
            held = (np.asarray(validation[0])[known] - self.mean_) / self.scale_
            pair = held, np.searchsorted(self.classes_, observed[known]).astype(np.int64)
        solution, self.C_ = _fit_logistic(
            (features - self.mean_) / self.scale_,
            codes,
            self._grid(),
            group_codes(groups, len(features)),
            pair,
            self.fraction,
            self.seed,
            self.max_iter,
            self.tol,
            self.balance,
        )
        self.coef_, self.intercept_ = solution.weights, solution.intercepts
        if len(self.classes_) == 2:
            self.coef_, self.intercept_ = np.diff(self.coef_, axis=0), np.diff(self.intercept_)
        self.converged_ = solution.converged
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Logits: float64 ``[N, classes]``, or ``[N]`` (of the second class) when there are two."""
        check_is_fitted(self)
        checked = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        logits: Floats = ((checked - self.mean_) / self.scale_) @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> Floats:
        """float64 ``[N, classes]``, in the order of ``classes_``."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.stack([expit(-logits), expit(logits)], axis=1)
        probability: Floats = softmax(logits, axis=1)
        return probability

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class for each row of float ``[N, D]``."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[likeliest]
        return chosen


class LinearMultiLabel(ClassifierMixin, _Logistic):  # type: ignore[misc]
    """One logistic regression per tag, each with its own C; parameters as `LinearClassifier`.

    A tag that every training row has, or none, gets a constant score (its smoothed frequency).
    """

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Fit float ``X`` [N, D] to the tags ``y`` [N, T] of 0 and 1."""
        features, observed = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True)
        rows = len(features)
        tags = np.asarray(observed).reshape(rows, -1).astype(np.int64)
        self.classes_ = [np.array([0, 1])] * tags.shape[1]
        self.mean_, self.scale_ = standardisation(features)
        self.coef_ = np.zeros((tags.shape[1], features.shape[1]))
        self.intercept_ = np.zeros(tags.shape[1])
        self.C_ = np.full(tags.shape[1], np.nan)
        settings = self.get_params()
        for t in range(tags.shape[1]):
            positives = int(tags[:, t].sum())
            if positives in (0, rows):
                self.intercept_[t] = np.log((positives + 0.5) / (rows - positives + 0.5))
                continue
            pair = None if validation is None else (validation[0], np.asarray(validation[1])[:, t].astype(np.int64))
            one = LinearClassifier(**settings).fit(features, tags[:, t], groups, pair)
            self.coef_[t], self.intercept_[t], self.C_[t] = one.coef_[0], one.intercept_[0], one.C_
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """float64 ``[N, T]``: the probability of each tag."""
        check_is_fitted(self)
        checked = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        probability: Floats = expit(((checked - self.mean_) / self.scale_) @ self.coef_.T + self.intercept_)
        return probability

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """int64 ``[N, T]``: 1 where a tag is at least as likely as not."""
        return (self.predict_proba(X) >= 0.5).astype(np.int64)


def ridge_path(X: Floats, y: Floats, alphas: Floats) -> tuple[Floats, Floats, Floats]:
    """Ridge regression with a free intercept for every penalty at once, and its exact leave-one-out errors.

    One eigendecomposition of the centred Gram matrix serves all. With ``h_i = 1/n + x_i' (X'X + a)^-1 x_i`` the error
    of row i when it is left out is ``e_i / (1 - h_i)``.

    Parameters
    ----------
    X : float64 [N, D]
    y : float64 [N]
    alphas : float64 [A]
        Penalties of ``|y - Xw - b|^2 + a |w|^2``.

    Returns
    -------
    coefficients : float64 [A, D]
    intercepts : float64 [A]
    left_out : float64 [A, N]
        ``y - prediction`` of each row by the fit without it.
    """
    mean, level = X.mean(axis=0), y.mean()
    centred, target = X - mean, y - level
    values, vectors = np.linalg.eigh(centred.T @ centred)
    inverse = 1.0 / (np.maximum(values, 0.0) + alphas[:, None])
    Z = centred @ vectors
    coefficients = (inverse * (Z.T @ target)) @ vectors.T
    residual = target - coefficients @ centred.T
    leverage = 1.0 / len(y) + inverse @ np.square(Z).T
    return coefficients, level - coefficients @ mean, residual / np.maximum(1.0 - leverage, 1e-12)


class RidgeRegression(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression on standardised features, the penalty chosen by exact leave-one-out.

    Where rows share groups the penalty is chosen over five folds of whole groups instead, and on ``validation`` where
    it is given.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties divided by the number of rows; `ALPHA_GRID` when None.
    seed : int
        Of the folds.
    """

    def __init__(self, alphas: Sequence[float] | None = None, seed: int = 0) -> None:
        self.alphas = alphas
        self.seed = seed

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, validation: Validation | None = None
    ) -> Self:
        """Fit float ``X`` [N, D] to ``y`` [N]."""
        features, observed = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        target = np.asarray(observed, np.float64)
        grid = np.asarray(self.alphas if self.alphas is not None else ALPHA_GRID, np.float64)
        self.mean_, self.scale_ = standardisation(features)
        Z = (features - self.mean_) / self.scale_
        coefficients, intercepts, left_out = ridge_path(Z, target, grid * len(Z))
        codes = group_codes(groups, len(Z))
        if validation is not None:
            held = (np.asarray(validation[0], np.float64) - self.mean_) / self.scale_
            predicted = coefficients @ held.T + intercepts[:, None]
            loss = np.mean((predicted - np.asarray(validation[1], np.float64)) ** 2, axis=1)
        elif 1 < (count := len(np.unique(codes))) < len(Z):
            loss = np.zeros(len(grid))
            for fold in leave_groups_out(codes, min(5, count), self.seed).folds:
                test = fold.parts["cv"]
                w, b, _ = ridge_path(Z[fold.train], target[fold.train], grid * len(fold.train))
                loss += np.sum((w @ Z[test].T + b[:, None] - target[test]) ** 2, axis=1)
        else:
            loss = np.mean(left_out**2, axis=1)
        best = int(np.argmin(loss))
        self.alpha_ = float(grid[best])
        self.coef_, self.intercept_ = coefficients[best], float(intercepts[best])
        return self

    def predict(self, X: ArrayLike) -> Floats:
        """float64 ``[N]``, in the unit of the target."""
        check_is_fitted(self)
        checked = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        value: Floats = ((checked - self.mean_) / self.scale_) @ self.coef_ + self.intercept_
        return value
