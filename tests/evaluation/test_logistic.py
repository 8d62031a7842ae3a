"""Logistic regression in scaled principal axes, against scikit-learn's solvers of the same objective."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from groundswell.evaluation import logistic
from groundswell.evaluation.logistic import LogisticProblem


def _alike(rows, width, classes, seed=0):
    """Features that say much the same thing, as those of a network: their first axis has most of the power."""
    rng = np.random.default_rng(seed)
    codes = np.arange(rows) % classes
    hidden = rng.normal(size=(classes, width))[codes] + 2 * rng.normal(size=(rows, width))
    Z = (hidden * np.arange(1.0, width + 1) ** -1.5) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    return (Z - Z.mean(axis=0)) / Z.std(axis=0), codes


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("rows", "width"), [(200, 30), (40, 90)], ids=["more rows", "more features"])
@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_it_minimises_the_objective_of_scikit_learn(classes, rows, width, balance, C):
    Z, codes = _alike(rows, width, classes)
    kept = (codes > 0) | (np.arange(rows) % 3 == 0)  # one class rarer
    Z, codes = Z[kept], codes[kept]
    found = LogisticProblem(Z, codes, classes, balance).fit(C, tol=1e-9)
    weight = "balanced" if balance else None
    reference = LogisticRegression(C=C, tol=1e-12, solver="newton-cg", max_iter=10000, class_weight=weight)
    reference.fit(Z, codes)
    weights, intercepts = found.weights, found.intercepts
    if classes == 2:
        weights, intercepts = np.diff(weights, axis=0), np.diff(intercepts)
    else:
        reference.intercept_ = reference.intercept_ - reference.intercept_.mean()  # free of a constant
    assert found.converged
    # The curvature is at least 1 / (C rows) in every direction, and both have slopes of 1e-9 or less.
    np.testing.assert_allclose(weights, reference.coef_, atol=1e-5)
    np.testing.assert_allclose(intercepts, reference.intercept_, atol=1e-5)


def test_slopes_are_those_of_finite_differences(monkeypatch):
    Z, codes = _alike(60, 8, 3)
    seen = []

    def look(loss, start, **options):
        seen.append(loss)
        return minimize(loss, start, **options)

    monkeypatch.setattr(logistic, "minimize", look)
    LogisticProblem(Z, codes, 3, balance=True).fit(0.1)
    point = np.random.default_rng(1).normal(size=9 * 3)
    # Forward differences with steps of 1.5e-8 of a function of order one: good to some 1e-7 a coordinate.
    assert check_grad(lambda x: seen[0](x)[0], lambda x: seen[0](x)[1], point) < 1e-6


def test_a_start_changes_the_way_and_not_the_end():
    Z, codes = _alike(150, 40, 4)
    problem = LogisticProblem(Z, codes, 4)
    near = problem.fit(0.05)
    cold, warm = (problem.fit(0.1, start, tol=1e-9) for start in (None, near))
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-6)
    # What a subset has taught starts the whole, in axes of its own.
    other = LogisticProblem(Z[:100], codes[:100], 4).fit(0.1)
    np.testing.assert_allclose(problem.fit(0.1, other, tol=1e-9).weights, cold.weights, atol=1e-6)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_scaled_axes_are_the_shorter_way_where_features_are_alike(C):
    Z, codes = _alike(400, 100, 5)

    def above(problem, steps):
        found = problem.fit(C, tol=1e-12, max_iter=steps)
        loss = -log_softmax(found.logits(Z), axis=1)[np.arange(400), codes].mean()
        return loss + np.square(found.weights).sum() / (2 * C * 400)

    scaled, plain = LogisticProblem(Z, codes, 5), LogisticProblem(Z, codes, 5)
    plain.power = np.full_like(plain.power, scaled.power.mean())
    least = above(scaled, 10000)
    assert above(scaled, 20) - least < (above(plain, 20) - least) / 10


def test_steps_that_do_not_suffice_are_told():
    Z, codes = _alike(100, 20, 3)
    assert not LogisticProblem(Z, codes, 3).fit(1.0, max_iter=2).converged
