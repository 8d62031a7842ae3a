"""Metrics against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn import metrics as reference

from groundswell.evaluation import metrics


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    observed = rng.choice(5, 400, p=[0.5, 0.3, 0.1, 0.1, 0.0])  # class 4 is never observed, sometimes predicted
    return observed, np.where(rng.random(400) < 0.6, observed, rng.integers(0, 5, 400))


def test_classes_against_scikit_learn(codes):
    got = metrics.classification(*codes, classes=5)
    assert got["accuracy"] == pytest.approx(reference.accuracy_score(*codes))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert got["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(*codes))
    assert got["macro_f1"] == pytest.approx(reference.f1_score(*codes, labels=[0, 1, 2, 3], average="macro"))
    np.testing.assert_array_equal(metrics.confusion(*codes, 5), reference.confusion_matrix(*codes))


def test_ranking_against_scikit_learn_with_ties():
    rng = np.random.default_rng(1)
    observed, score = rng.integers(0, 2, (300, 3)), rng.integers(0, 9, (300, 3)) / 8
    got = metrics.multi_label(observed.astype(float), score, ["a", "b", "c"])
    for t, tag in enumerate("abc"):
        assert got[f"auroc:{tag}"] == pytest.approx(reference.roc_auc_score(observed[:, t], score[:, t]))
        assert got[f"ap:{tag}"] == pytest.approx(reference.average_precision_score(observed[:, t], score[:, t]))
    for kind in ("macro", "micro"):
        assert got[f"{kind}_auroc"] == pytest.approx(reference.roc_auc_score(observed, score, average=kind))
        assert got[f"{kind}_ap"] == pytest.approx(reference.average_precision_score(observed, score, average=kind))


def test_a_tag_without_positives_is_undefined_and_left_out_of_the_mean():
    observed = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    got = metrics.multi_label(observed, np.array([[0.9, 0.5], [0.1, 0.4], [0.8, 0.3]]), ["seen", "never"])
    assert np.isnan(got["auroc:never"])
    assert np.isnan(got["ap:never"])
    assert got["macro_auroc"] == got["macro_ap"] == 1.0
    assert np.isnan(metrics.auroc([1, 1], [0.2, 0.3]))  # no negatives: no ranking either


def test_regression_closed_forms():
    observed, predicted = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 5.0, 7.0])
    got = metrics.regression(observed, predicted)
    assert got["bias"] == 1.0  # errors 1, 0, 2, 1
    assert got["rmse"] == pytest.approx(np.sqrt(6 / 4))
    assert got["scatter_index"] == pytest.approx(np.sqrt(6 / 4) / 3)
    assert got["unbiased_scatter_index"] == pytest.approx(np.sqrt(6 / 4 - 1) / 3)
    assert got["r2"] == pytest.approx(1 - 6 / 14)
    assert got["r2"] == pytest.approx(reference.r2_score(observed, predicted))


def test_murphy_parts_add_up_to_the_mean_squared_error():
    rng = np.random.default_rng(2)
    observed = rng.gamma(2, 1, 500)
    predicted = 0.7 * observed + 0.5 + 0.3 * rng.normal(size=500)
    parts = metrics.murphy(observed, predicted)
    assert sum(parts.values()) == pytest.approx(np.mean((predicted - observed) ** 2), rel=1e-12)
    assert parts["bias"] == pytest.approx(metrics.regression(observed, predicted)["bias"] ** 2)
