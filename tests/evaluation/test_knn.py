"""Nearest neighbours against a double loop, against scikit-learn, and against its own estimator checks."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator

from groundswell.evaluation.knn import KNNClassifier, KNNMultiLabel, KNNRegressor, neighbours, unit


def _data(seed=0, rows=60, width=5, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)), rng.integers(0, classes, rows), rng.normal(size=(17, width))


def _double_loop(bank, targets, queries, k, temperature):
    """The definition, one pair at a time."""
    result = []
    for q in queries:
        scores = [float(q @ b / np.sqrt(q @ q) / np.sqrt(b @ b)) for b in bank]
        top = sorted(range(len(bank)), key=lambda i: (-scores[i], i))[:k]
        weight = np.exp([scores[i] / temperature for i in top])
        result.append(sum(w * targets[i] for w, i in zip(weight / weight.sum(), top, strict=True)))
    return np.array(result)


@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_votes_equal_the_definition(k):
    X, y, queries = _data()
    expected = _double_loop(X, np.eye(3)[y], queries, k, 0.07)
    got = KNNClassifier(k=k).fit(X, y).predict_proba(queries)
    np.testing.assert_allclose(got, expected, atol=1e-12)  # float64 sums of at most 60 terms
    value = KNNRegressor(k=k).fit(X, X[:, :2]).predict(queries)
    np.testing.assert_allclose(value, _double_loop(X, X[:, :2], queries, k, 0.07), atol=1e-12)
    tags = np.stack([y == 0, y > 0], axis=1).astype(int)
    np.testing.assert_allclose(
        KNNMultiLabel(k=k).fit(X, tags).predict_proba(queries), _double_loop(X, tags, queries, k, 0.07), atol=1e-12
    )


def test_a_high_temperature_gives_the_uniform_votes_of_scikit_learn():
    X, y, queries = _data(1, rows=200)
    ours = KNNClassifier(k=9, temperature=1e9).fit(X, y).predict_proba(queries)
    theirs = KNeighborsClassifier(9, metric="cosine").fit(X, y).predict_proba(queries)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)  # weights differ from 1/9 by about 1e-9


def test_blocks_do_not_change_the_neighbours(monkeypatch):
    X, _, queries = _data(2)
    whole = neighbours(unit(queries), unit(X), 6)
    monkeypatch.setattr("groundswell.evaluation.knn._BLOCK", 180)  # three queries at a time
    parts = neighbours(unit(queries), unit(X), 6)
    np.testing.assert_array_equal(whole[1], parts[1])


def test_equal_similarities_come_in_row_order():
    bank = unit(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]]))
    _, rows = neighbours(np.array([[1.0, 0.0]]), bank, 4)
    assert rows.tolist() == [[0, 2, 3, 1]]


def test_k_is_chosen_on_groups_that_are_held_out():
    # Rows come in identical pairs, each pair with a random class of its own: one neighbour is perfect as long as a
    # pair may be split, and useless over whole pairs, where the class in the sign of feature 0 needs many votes.
    rng = np.random.default_rng(3)
    sign = rng.integers(0, 2, 200)
    pairs = rng.normal(size=(200, 6)) + np.where(sign, 1.0, -1.0)[:, None] * np.eye(6)[0]
    y = np.where(rng.random(200) < 0.35, 1 - sign, sign).repeat(2)
    X, groups = pairs.repeat(2, axis=0), np.arange(200).repeat(2)
    assert KNNClassifier(k=[1, 50], seed=1).fit(X, y, groups).k_ == 50
    assert KNNClassifier(k=[1, 50], seed=1).fit(X, y).k_ == 1


def test_automatic_scaling_sees_through_a_loud_feature():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 300)
    X = np.concatenate(
        [np.where(y, 1.0, -1.0)[:, None] + 0.3 * rng.normal(size=(300, 3)), 20 * rng.normal(size=(300, 3))], axis=1
    )
    model = KNNClassifier(scaling="auto").fit(X[:200], y[:200])
    assert model.scaling_ == "standardise"
    assert model.score(X[200:], y[200:]) > 0.9
    assert KNNClassifier(scaling="none").fit(X[:200], y[:200]).score(X[200:], y[200:]) < 0.8


def test_validation_rows_choose_k_and_unknown_classes_there_are_ignored():
    X, y, _ = _data(5)
    noisy = (X, np.where(np.arange(len(y)) < 3, 99, y))
    assert KNNClassifier(k=[1, 60]).fit(X, y, validation=noisy).k_ == 1  # the training rows themselves: 1 is perfect


@pytest.mark.parametrize("estimator", [KNNClassifier(), KNNRegressor()], ids=repr)
def test_scikit_learn_conventions(estimator):
    for one, check in estimator_checks_generator(estimator):
        check(one)


def test_bad_settings_are_refused():
    X, y, _ = _data()
    with pytest.raises(ValueError, match="at least 1"):
        KNNClassifier(k=0).fit(X, y)
    with pytest.raises(ValueError, match="scaling"):
        KNNClassifier(scaling="z").fit(X, y)


def test_balanced_votes_are_divided_by_the_share_of_the_class():
    X, y, queries = _data(6, rows=200, classes=2)
    keep = (y == 0) | (np.arange(200) % 4 == 0)
    X, y = X[keep], y[keep]
    votes = KNNClassifier(k=15).fit(X, y).predict_proba(queries) / np.bincount(y)
    balanced = KNNClassifier(k=15, balance=True).fit(X, y).predict_proba(queries)
    np.testing.assert_allclose(balanced, votes / votes.sum(axis=1, keepdims=True))
