"""The watch over a run: figures in closed form, and when it stops a run."""

import math

import pytest
import torch

from groundswell.errors import CollapsedError, DivergedError
from groundswell.methods.dino import DINO
from groundswell.methods.mae import MAE
from groundswell.methods.simclr import SimCLR
from groundswell.training.checkpoint import Score
from groundswell.training.health import Health, HealthSettings, effective_rank, feature_spread


def test_spread_is_one_on_the_even_sphere_and_zero_for_one_vector() -> None:
    x = torch.randn(20000, 64, generator=torch.Generator().manual_seed(0))
    # The mean of 64 deviations, each from 20,000 samples: relative standard error 1 / sqrt(2 * 20000) = 0.5 % at most.
    assert feature_spread(x) == pytest.approx(1.0, abs=0.005)
    assert feature_spread(7 * x) == pytest.approx(feature_spread(x), rel=1e-6)  # float32 rounding of the scaling
    assert feature_spread(torch.ones(50, 64)) == 0.0
    # Two antipodal points on one axis: that axis has deviation 1, the others 0: mean 1/64, times sqrt(64).
    two = torch.zeros(10, 64)
    two[:5, 3], two[5:, 3] = 1.0, -1.0
    assert feature_spread(two) == pytest.approx(1 / 8)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8)])
def test_rank_of_equal_singular_values_is_their_number(shape: tuple[int, int]) -> None:
    # p = 1/3 each: exp(ln 3) = 3; the 1e-7 of the definition moves it by 1e-6.
    x = torch.zeros(shape)
    for i in range(3):
        x[i, i] = 5.0
    assert effective_rank(x) == pytest.approx(3.0, abs=1e-4)


def test_rank_equals_the_definition_by_svd() -> None:
    x = torch.randn(40, 17, generator=torch.Generator().manual_seed(1)) @ torch.diag(torch.logspace(0, -3, 17))
    sigma = torch.linalg.svdvals(x.double())
    p = sigma / sigma.sum() + 1e-7
    assert effective_rank(x) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-6)


def test_rank_of_one_vector_and_of_nothing_is_one() -> None:
    assert effective_rank(torch.ones(30, 10)) == pytest.approx(1.0, abs=1e-4)
    assert effective_rank(torch.zeros(30, 10)) == 1.0


def test_a_loss_that_explodes_is_skipped_then_stopped() -> None:
    health = Health(HealthSettings(max_growth=10.0, max_skipped=2))
    assert health.judge_step(-3.0, 1.0, 1, "none")  # KoLeo's may be negative
    assert health.judge_step(29.0, 1.0, 2, "none")
    assert not health.judge_step(31.0, 1.0, 3, "none")
    assert not health.well
    assert health.judge_step(5.0, 1.0, 4, "none")  # it has passed
    assert health.well
    for step in (5, 6):
        assert not health.judge_step(1e8, 1.0, step, "step-00000004.pt")
    with pytest.raises(DivergedError, match="3 steps in a row had a loss that has exploded") as caught:
        health.judge_step(1e9, 1.0, 7, "step-00000004.pt")
    assert "at the first step -3.0" in (caught.value.why or "")
    assert "step-00000004.pt" in (caught.value.where or "")


HEALTHY = {"feature_spread": 0.7, "effective_rank": 40.0, "chance_ratio": 0.5}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"feature_spread": 0.05}, "spread"), ({"effective_rank": 1.1}, "rank"), ({"chance_ratio": 1.0}, "chance")],
)
def test_a_collapse_is_stopped_after_patience_and_grace(fault: dict[str, float], reason: str) -> None:
    health = Health(HealthSettings(grace=0.1, patience=2))
    ill = HEALTHY | fault
    assert health.judge_features(ill, 0.05, 1, "none") is None  # still in its grace
    assert reason in (health.judge_features(ill, 0.2, 2, "none") or "")
    assert health.judge_features(HEALTHY, 0.3, 3, "none") is None  # recovered: the count starts again
    assert health.judge_features(ill, 0.4, 4, "none") is not None
    with pytest.raises(CollapsedError) as caught:
        health.judge_features(ill, 0.5, 5, "step-00000002.pt")
    assert reason in (caught.value.why or "")
    assert "step-00000002.pt" in (caught.value.where or "")


TEACHER = {
    "teacher_uniformity": 0.8,
    "prototypes_used": 300.0,
    "kl": 0.3,
    "feature_spread": 0.7,
    "effective_rank": 40.0,
}


@pytest.mark.parametrize(
    ("fault", "reason", "remedy"),
    [
        ({"teacher_uniformity": 0.9995}, "of the largest entropy", "lower method.teacher_temperature"),
        ({"prototypes_used": 1.1}, "choose the same", "method.centring=sinkhorn"),
        ({"kl": 1e-6}, "nats", "lower method.teacher_temperature"),
        ({"feature_spread": 0.01}, "spread", "optimiser.lr"),
    ],
)
def test_both_collapses_of_a_teacher_are_told_with_their_remedy(
    fault: dict[str, float], reason: str, remedy: str
) -> None:
    health = Health(HealthSettings(grace=0.0, patience=2), DINO.watched)
    assert health.judge_features(TEACHER, 0.5, 1, "none") is None
    assert reason in (health.judge_features(TEACHER | fault, 0.5, 2, "none") or "")
    with pytest.raises(CollapsedError) as caught:
        health.judge_features(TEACHER | fault, 0.5, 3, "none")
    assert remedy in (caught.value.fix or "")


def test_only_the_figures_of_the_method_count() -> None:
    collapsed = {"feature_spread": 0.0, "effective_rank": 1.0, "chance_ratio": 1.0, "explained": 0.1}
    health = Health(HealthSettings(grace=0.0, patience=1), MAE.watched)
    assert health.judge_features(collapsed, 0.5, 1, "none") is None  # an autoencoder has no such minimum
    with pytest.raises(CollapsedError):
        Health(HealthSettings(grace=0.0, patience=1), SimCLR.watched).judge_features(collapsed, 0.5, 1, "none")


def test_an_autoencoder_that_predicts_means_is_told_of_once_late_and_never_stopped() -> None:
    health = Health(HealthSettings(grace=0.0, patience=1), MAE.watched)
    assert health.judge_features({"explained": -0.004}, 0.4, 1, "none") is None  # every run begins there
    assert health.judge_features({"explained": 0.02}, 0.6, 2, "none") is None
    assert "mean of each patch" in (health.judge_features({"explained": -0.004}, 0.7, 3, "none") or "")
    assert health.well
    assert health.judge_features({"explained": -0.004}, 0.8, 4, "none") is None
    assert Health(HealthSettings(), SimCLR.watched).judge_features(HEALTHY, 0.9, 1, "none") is None


def test_a_score_that_falls_to_half_of_its_best_is_told_of_once_a_fall_and_never_stopped() -> None:
    health = Health(HealthSettings(patience=1, grace=0.0))
    scores = (0.5, 0.8, 0.41, 0.4, 0.1, 0.5, 0.3, 1.0, 0.41)
    told = [health.judge_score(Score("kNN", score)) for score in scores]
    assert [text is not None for text in told] == [*[False] * 3, True, False, False, True, False, True]
    assert "kNN has fallen to 0.4, half of its best (0.8)" in (told[3] or "")
    assert "best (1)" in (told[8] or "")
    assert health.well
    assert health.judge_score(Score("another", 0.2)) is None  # cannot be compared
    assert not health.fallen


def test_a_score_that_is_no_number_is_told_of_and_not_compared() -> None:
    health = Health(HealthSettings())
    assert "kNN is nan: no number" in (health.judge_score(Score("kNN", math.nan)) or "")
    assert health.best is None
    assert health.judge_score(Score("kNN", 0.5)) is None
    assert health.judge_score(Score("kNN", math.nan)) is not None
    assert health.best == Score("kNN", 0.5)


def test_a_score_that_was_never_above_zero_has_no_half() -> None:
    health = Health(HealthSettings())
    assert [health.judge_score(Score("minus a loss", score)) for score in (-1.0, -5.0, 0.0, 0.0)] == [None] * 4


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_steps_that_are_not_finite_are_skipped_and_then_stop_the_run(loss: float, norm: float) -> None:
    health = Health(HealthSettings(max_skipped=2))
    assert health.judge_step(1.0, 1.0, 0, "none")
    assert not health.judge_step(loss, norm, 1, "none")
    assert health.judge_step(1.0, 1.0, 2, "none")
    assert not health.judge_step(loss, norm, 3, "none")
    assert not health.judge_step(loss, norm, 4, "none")
    with pytest.raises(DivergedError, match="diverged") as caught:
        health.judge_step(loss, norm, 5, "step-00000003.pt")
    assert "step-00000003.pt" in (caught.value.where or "")
