"""Multinomial logistic regression for features that say much the same thing.

    minimise over W, b:  sum_i s_i (-log softmax(W z_i + b)[y_i]) + |W|^2 / (2 C)

which is scikit-learn's objective; of two classes that one has the single vector ``v = w_1 - w_0`` and the penalty
``|v|^2 / (2 C)``, which is half of C here. Features of a network are so alike that L-BFGS on W takes thousands of steps
to follow a path of penalties. The curvature of softmax is at most one half (Böhning 1992, Annals of the Institute of
Statistical Mathematics 44, 197-200), so the Hessian is at most ``Z'SZ / 2 + 1 / C``: in the principal axes of Z, each
divided by the root of that bound, it is at most one. There L-BFGS takes a half to a quarter of the steps
(benchmarks/probe.py), and one decomposition serves every C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Solution:
    """Weights ``W [K, D]`` and intercepts ``b [K]`` of all classes, and whether the search for them got there."""

    weights: Floats
    intercepts: Floats
    converged: bool

    def logits(self, Z: Floats) -> Floats:
        """float64 ``[N, K]`` of float64 ``[N, D]``."""
        return Z @ self.weights.T + self.intercepts


class LogisticProblem:
    """Rows and their classes, to be fitted with any penalty.

    Parameters
    ----------
    Z : float64 [N, D]
        Standardised features.
    codes : int64 [N]
        Classes, from 0.
    classes : int
        How many there are, K.
    balance : bool
        Weight rows so that classes count alike.
    """

    def __init__(self, Z: Floats, codes: NDArray[np.int64], classes: int, balance: bool = False) -> None:
        self.codes, self.classes = codes, classes
        self.weight = np.full(len(Z), 1 / len(Z))
        if balance:
            counts = np.bincount(codes)
            self.weight = 1 / (np.count_nonzero(counts) * counts[codes])
        # The axes of the rows, and the mean square along each; no more of them than rows.
        weighted = np.sqrt(self.weight)[:, None] * Z
        if len(Z) < Z.shape[1]:
            _, singular, axes = np.linalg.svd(weighted, full_matrices=False)
            self.power, self.axes = singular**2, axes.T
        else:
            power, self.axes = np.linalg.eigh(weighted.T @ weighted)
            self.power = np.maximum(power, 0.0)
        self.rotated = Z @ self.axes

    def fit(self, C: float, start: Solution | None = None, tol: float = 1e-5, max_iter: int = 1000) -> Solution:
        """The solution for an inverse penalty C, sought from ``start`` (zero by default).

        Ends where no slope, in the scaled axes and of the mean over the rows, exceeds ``tol``.
        """
        penalty = (2 if self.classes == 2 else 1) / (C * len(self.codes))
        scale = 1 / np.sqrt(self.power / 2 + penalty)[:, None]
        rows = np.arange(len(self.codes))

        def loss(flat: Floats) -> tuple[float, Floats]:
            values = flat.reshape(-1, self.classes)
            turned = scale * values[:-1]
            logits = self.rotated @ turned + values[-1]
            logits -= logits.max(axis=1, keepdims=True)
            residual = np.exp(logits)
            sums = residual.sum(axis=1)
            value = self.weight @ (np.log(sums) - logits[rows, self.codes]) + penalty / 2 * np.square(turned).sum()
            residual /= sums[:, None]
            residual[rows, self.codes] -= 1
            residual *= self.weight[:, None]
            slope = np.empty_like(values)
            slope[:-1] = scale * (self.rotated.T @ residual + penalty * turned)
            slope[-1] = residual.sum(axis=0)
            return float(value), slope.ravel()

        first = np.zeros((len(scale) + 1, self.classes))
        if start is not None:
            first[:-1], first[-1] = (start.weights @ self.axes).T / scale, start.intercepts
        rounding = float(64 * np.finfo(float).eps)  # of the loss, relative: no search goes on below it
        # One BLAS thread: the products are too thin for two, which spend five times as long waiting (measured).
        with threadpool_limits(1, user_api="blas"):
            found = minimize(
                loss,
                first.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": rounding},
            )
        values = found.x.reshape(-1, self.classes)
        return Solution((self.axes @ (scale * values[:-1])).T, values[-1], bool(found.status == 0))
