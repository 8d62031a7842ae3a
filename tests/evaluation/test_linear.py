"""Linear probes against scikit-learn's objective, against refits, and against its estimator checks."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.utils.estimator_checks import estimator_checks_generator

from groundswell.evaluation.linear import (
    C_GRID,
    PATIENCE,
    LinearClassifier,
    LinearMultiLabel,
    RidgeRegression,
    ridge_path,
)
from groundswell.evaluation.logistic import LogisticProblem
from groundswell.evaluation.splits import group_codes, hold_out


def _classes(rows=300, width=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    X = rng.normal(size=(classes, width))[y] + 1.5 * rng.normal(size=(rows, width))
    return X * 10 ** rng.uniform(-2, 2, width) + 5, y


def _objective(model, X, y):
    Z = (X - model.mean_) / model.scale_
    loss = -log_softmax(Z @ model.coef_.T + model.intercept_, axis=1)[np.arange(len(y)), y].sum()
    return loss + (model.coef_**2).sum() / (2 * model.C_)


def test_the_solution_minimises_the_multinomial_objective():
    X, y = _classes()
    model = LinearClassifier(C=0.5, tol=1e-8).fit(X, y)
    reference = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cg", max_iter=1000)
    reference.fit((X - X.mean(0)) / X.std(0), y)
    best = _objective(model, X, y)
    model.coef_, model.intercept_ = reference.coef_, reference.intercept_
    # a convex problem: equal to its minimum, found by another method, to rounding
    assert best == pytest.approx(_objective(model, X, y), rel=1e-9)
    assert model.converged_


def test_two_classes_have_one_logit():
    X, y = _classes(classes=2)
    model = LinearClassifier(C=1.0, tol=1e-8).fit(X, np.array(["cargo", "tanker"])[y])
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit((X - X.mean(0)) / X.std(0), y)
    expected = reference.predict_proba((X - X.mean(0)) / X.std(0))
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)  # both stopped by a gradient of 1e-8
    assert model.decision_function(X).shape == (len(X),)
    assert set(model.predict(X)) == {"cargo", "tanker"}


def test_the_penalty_is_the_one_of_least_cross_entropy_on_the_held_out_groups():
    X, y = _classes(rows=120, width=30)
    X += 60 * np.random.default_rng(8).normal(size=X.shape)  # hard enough that the weakest penalty overfits
    groups = np.arange(120) // 4
    grid = [1e-4, 1e-2, 1.0, 100.0]
    held = hold_out(group_codes(groups, 120), 0.25, 7, y)
    assert not set(groups[held]) & set(groups[~held])
    mean, scale = X.mean(0), X.std(0)
    losses = []
    for C in grid:
        one = LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit((X[~held] - mean) / scale, y[~held])
        losses.append(-one.predict_log_proba((X[held] - mean) / scale)[np.arange(held.sum()), y[held]].mean())
    assert 0 < int(np.argmin(losses)) < 3  # neither end of the grid: the choice means something
    model = LinearClassifier(grid=grid, fraction=0.25, seed=7).fit(X, y, groups)
    assert grid[int(np.argmin(losses))] == model.C_


@pytest.mark.parametrize("noise", [3.0, 5.0, 9.0])
def test_the_search_ends_past_the_best_penalty_and_chooses_as_the_whole_grid_does(noise, monkeypatch):
    rng = np.random.default_rng(4)
    y = rng.integers(0, 4, 400)
    X = rng.normal(size=(4, 80))[y] + noise * rng.normal(size=(400, 80))
    Z = (X[:200] - X[:200].mean(0)) / X[:200].std(0), (X[200:] - X[:200].mean(0)) / X[:200].std(0)
    losses = []
    for C in C_GRID:
        one = LogisticRegression(C=C, max_iter=5000, tol=1e-6).fit(Z[0], y[:200])
        losses.append(-one.predict_log_proba(Z[1])[np.arange(200), y[200:]].mean())
    best = int(np.argmin(losses))
    assert best + PATIENCE < len(C_GRID) - 1  # there is something to save
    tried = []
    fit = LogisticProblem.fit
    monkeypatch.setattr(LogisticProblem, "fit", lambda self, C, *rest: (tried.append(C), fit(self, C, *rest))[1])
    model = LinearClassifier().fit(X[:200], y[:200], validation=(X[200:], y[200:]))
    assert C_GRID[best] == model.C_
    assert tried == [*C_GRID[: best + PATIENCE + 1], model.C_]


def test_validation_rows_choose_the_penalty_but_are_not_fitted():
    X, y = _classes(rows=200, width=30)
    model = LinearClassifier(grid=[1e-5, 1e-2, 1.0], tol=1e-8).fit(X[:100], y[:100], validation=(X[100:], y[100:]))
    alone = LinearClassifier(C=model.C_, tol=1e-8).fit(X[:100], y[:100])
    np.testing.assert_allclose(model.coef_, alone.coef_, atol=1e-12)


def test_tags_are_separate_regressions_and_a_tag_without_examples_is_constant():
    X, y = _classes()
    tags = np.stack([y == 0, y == 1, np.zeros_like(y), np.ones_like(y)], axis=1).astype(int)
    model = LinearMultiLabel(C=1.0).fit(X, tags)
    score = model.predict_proba(X)
    for t in (0, 1):
        one = LinearClassifier(C=1.0).fit(X, tags[:, t])
        np.testing.assert_allclose(score[:, t], one.predict_proba(X)[:, 1], atol=1e-12)
    np.testing.assert_allclose(score[:, 2], 0.5 / 301)
    np.testing.assert_allclose(score[:, 3], 300.5 / 301)
    assert model.predict(X)[:, 3].all()


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (15, 30)])
def test_leave_one_out_equals_refits(rows, width):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows, width)) + 3, rng.normal(size=rows)
    alphas = np.array([0.1, 1.0, 30.0])
    coefficients, intercepts, left_out = ridge_path(X, y, alphas)
    for a, alpha in enumerate(alphas):
        whole = Ridge(alpha).fit(X, y)
        np.testing.assert_allclose(coefficients[a], whole.coef_, atol=1e-10)
        assert intercepts[a] == pytest.approx(whole.intercept_, abs=1e-10)
        for i in range(rows):
            others = np.arange(rows) != i
            refit = Ridge(alpha).fit(X[others], y[others])
            # the closed form is exact: what is left is the rounding of two 30 x 30 solutions
            assert left_out[a, i] == pytest.approx(y[i] - refit.predict(X[i : i + 1])[0], abs=1e-9)


def test_ridge_chooses_as_scikit_learn_does():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 40)) * 10 ** rng.uniform(-2, 2, 40)
    y = X / X.std(0) @ rng.normal(size=40) + 6 * rng.normal(size=80) + 2.5
    alphas = np.logspace(-4, 2, 13)
    Z = (X - X.mean(0)) / X.std(0)
    reference = RidgeCV(alphas * len(Z)).fit(Z, y)
    model = RidgeRegression(alphas=alphas).fit(X, y)
    assert model.alpha_ * len(Z) == pytest.approx(reference.alpha_)
    assert alphas[0] < model.alpha_ < alphas[-1]
    np.testing.assert_allclose(model.predict(X), reference.predict(Z), atol=1e-9)


def test_ridge_over_groups_is_not_fooled_by_copies():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 40)).repeat(5, axis=0) + 1e-4 * rng.normal(size=(300, 40))
    y = (3 * rng.normal(size=60) + X[::5, 0]).repeat(5)
    rowwise, groupwise = RidgeRegression().fit(X, y), RidgeRegression().fit(X, y, np.arange(300) // 5)
    assert groupwise.alpha_ > 100 * rowwise.alpha_  # leaving out one of five copies punishes no overfit


def test_ridge_validation_rows_choose_alpha():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(60, 20)), rng.normal(size=60)
    # a validation set that is the training set wants the weakest penalty, its negative the strongest
    assert RidgeRegression(alphas=[1e-3, 1.0, 1e3]).fit(X, y, validation=(X, y)).alpha_ == 1e-3
    assert RidgeRegression(alphas=[1e-3, 1.0, 1e3]).fit(X, y, validation=(X, -y)).alpha_ == 1e3


@pytest.mark.parametrize("estimator", [LinearClassifier(), RidgeRegression()], ids=repr)
def test_scikit_learn_conventions(estimator):
    for one, check in estimator_checks_generator(estimator):
        check(one)


def test_balanced_classes_equal_repeated_rows():
    X, y = _classes(rows=240, classes=2)
    keep = (y == 0) | (np.arange(240) % 3 == 0)  # class 1 is three times as rare
    X, y = X[keep], y[keep]
    balanced = LinearClassifier(C=0.1, balance=True, tol=1e-10).fit(X, y)
    weight = len(y) / (2 * np.bincount(y))[y]
    Z = (X - X.mean(0)) / X.std(0)
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit(Z, y, sample_weight=weight)
    np.testing.assert_allclose(balanced.coef_, reference.coef_, atol=1e-6)
    assert balanced.predict(X).mean() > LinearClassifier(C=0.1).fit(X, y).predict(X).mean()
