"""The linear probe of a table of embeddings, and the same with scikit-learn's solver.

    python benchmarks/probe.py TABLE [--target label_phenomenon] [--split split]

Both follow the same path of penalties with warm starts, end it by the same rule on the same held-out rows, and fit the
chosen one to all training rows, on one thread and in CPU time. Printed: seconds, passes over the rows, the chosen C,
how far the last fit is above the least loss known (mean over the rows; the least is our fit at a tolerance of 1e-9),
and accuracy on the other rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from groundswell.encoder.table import EmbeddingTable
from groundswell.evaluation import logistic
from groundswell.evaluation.linear import C_GRID, PATIENCE, LinearClassifier
from groundswell.evaluation.logistic import LogisticProblem, Solution
from groundswell.evaluation.scaling import standardisation
from groundswell.evaluation.splits import group_codes, hold_out


def peer(Z: np.ndarray, codes: np.ndarray) -> tuple[Solution, float, int]:
    """scikit-learn's solver on the path of `LinearClassifier`, which it was until its own took over."""
    held = hold_out(group_codes(None, len(Z)), 0.2, 0, codes)
    model = LogisticRegression(tol=1e-4, warm_start=True, max_iter=1000)
    losses: list[float] = []
    passes = 0
    for c in C_GRID:
        model.set_params(C=c).fit(Z[~held], codes[~held])
        passes += int(model.n_iter_.max())
        losses.append(-model.predict_log_proba(Z[held])[np.arange(held.sum()), codes[held]].mean())
        if len(losses) - 1 - int(np.argmin(losses)) == PATIENCE:
            break
    chosen = C_GRID[int(np.argmin(losses))]
    final = LogisticRegression(C=chosen, tol=1e-5, max_iter=1000).fit(Z, codes)
    return Solution(final.coef_, final.intercept_, True), chosen, passes + int(final.n_iter_.max())


def timed(fit: Callable[[], tuple[Solution, float, int]]) -> tuple[float, Solution, float, int]:
    """CPU seconds on one thread, and what came of them."""
    with threadpool_limits(1):
        start = time.process_time()
        found = fit()
        return time.process_time() - start, *found


def main() -> None:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--target", default="label_phenomenon")
    parser.add_argument("--split", default="split")
    arguments = parser.parse_args()
    table = EmbeddingTable.read(arguments.table)
    train = (table.frame[arguments.split] == "train").to_numpy()
    names, codes = np.unique(table.frame[arguments.target].to_numpy(str), return_inverse=True)
    if len(names) < 3:
        parser.error("two classes have one logit in scikit-learn; take a target of three or more")
    features = table.vectors.astype(np.float64)
    mean, scale = standardisation(features[train])
    Z = (features - mean) / scale
    rows = np.arange(train.sum())
    warnings.simplefilter("ignore", ConvergenceWarning)

    passes = 0
    minimise = logistic.minimize

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal passes
        found = minimise(*args, **kwargs)
        passes += found.nfev
        return found

    def ours() -> tuple[Solution, float, int]:
        model = LinearClassifier().fit(Z[train], codes[train])
        return Solution(model.coef_, model.intercept_, model.converged_), model.C_, passes

    def loss(solution: Solution, C: float) -> float:
        fit = -log_softmax(solution.logits(Z[train]), axis=1)[rows, codes[train]].mean()
        return float(fit + np.square(solution.weights).sum() / (2 * C * train.sum()))

    logistic.minimize = counted
    print(f"{arguments.table}: {train.sum()} x {Z.shape[1]} training rows, {len(names)} classes")
    seconds = []
    for name, fit in (("ours", ours), ("scikit-learn", lambda: peer(Z[train], codes[train]))):
        took, solution, C, looks = timed(fit)
        least = loss(LogisticProblem(Z[train], codes[train], len(names)).fit(C, tol=1e-9, max_iter=20000), C)
        right = (solution.logits(Z[~train]).argmax(axis=1) == codes[~train]).mean()
        seconds.append(took)
        above = loss(solution, C) - least
        print(f"  {name:12} {took:6.1f} s, {looks:5} passes, C {C:.3g}, {above:.1e} above the least, {right:.4f} right")
    print(f"  ratio {seconds[1] / seconds[0]:.1f}")


if __name__ == "__main__":
    main()
