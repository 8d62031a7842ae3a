"""Schedules against their closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundswell.methods.schedules import cosine, ramp, step_progress, warmup_cosine


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, 0.0),
        (0.05, 1.5),  # half-way through the warm-up
        (0.1, 3.0),
        (0.55, 1.55),  # half-way down: the mean of peak and final
        (1.0, 0.1),
        (0.1 + 0.9 / 3, 0.1 + 2.9 * 0.75),  # cos(pi / 3) = 1/2
    ],
)
def test_warmup_cosine_at_points_known_in_closed_form(progress: float, expected: float) -> None:
    assert warmup_cosine(progress, peak=3.0, warmup=0.1, final=0.1) == pytest.approx(expected, abs=1e-12)


@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.9), peak=st.floats(0.01, 10))
def test_the_mean_over_the_run_is_half_the_peak_whatever_the_warmup(
    progress: float, warmup: float, peak: float
) -> None:
    # Both parts are symmetric about half the peak (final = 0), so a point and its mirror in the cosine sum to the peak.
    mirror = max(warmup + 1 - max(progress, warmup), warmup)  # rounding must not carry it into the warm-up
    value = warmup_cosine(max(progress, warmup), peak=peak, warmup=warmup)
    assert value + warmup_cosine(mirror, peak=peak, warmup=warmup) == pytest.approx(peak, rel=1e-9)
    assert 0 <= warmup_cosine(progress, peak=peak, warmup=warmup) <= peak * (1 + 1e-12)


def test_progress_outside_the_run_is_clamped() -> None:
    # A clock-driven run overshoots its minutes by part of a step.
    assert warmup_cosine(1.3, peak=1.0, warmup=0.1, final=0.2) == pytest.approx(0.2)
    assert warmup_cosine(-0.1, peak=1.0, warmup=0.1) == 0.0


def test_no_step_has_a_learning_rate_of_zero_and_the_mean_is_exact() -> None:
    total = 40
    rates = [warmup_cosine(step_progress(i, total), peak=1.0, warmup=0.25) for i in range(total)]
    assert min(rates) > 0
    # The midpoint rule integrates a line exactly, and a half cosine exactly by its symmetry: 1/2 of the peak.
    assert math.fsum(rates) / total == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(-0.1, 2.0), (0.0, 2.0), (1 / 3, 1.75), (0.5, 1.5), (2 / 3, 1.25), (1.0, 1.0), (1.1, 1.0)],  # cos(pi / 3) = 1/2
)
def test_cosine_at_points_known_in_closed_form(progress: float, expected: float) -> None:
    assert cosine(progress, 2.0, 1.0) == pytest.approx(expected, abs=1e-12)


def test_a_ramp_is_straight_and_then_stays() -> None:
    values = [ramp(progress, 0.04, 0.07, until=0.3) for progress in (-0.1, 0.0, 0.1, 0.2, 0.3, 0.9)]
    assert values == pytest.approx([0.04, 0.04, 0.05, 0.06, 0.07, 0.07])
    assert ramp(0.0, 0.04, 0.07, until=0.0) == 0.07
