"""Multilook against closed forms, brute force, and itself in other blocks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundswell.errors import DataError
from groundswell.physics.multilook import KAISER_BETA, KAISER_WIDTH, Filter, Multilook, ground_edges, weights

FILTERS: tuple[Filter, ...] = ("box", "kaiser")


def _multilook(intensity, valid, rows, columns, blocks=()):
    looks = Multilook(rows, columns)
    for start, stop in zip((0, *blocks), (*blocks, len(intensity)), strict=True):
        looks.add(start, intensity[start:stop], valid[start:stop])
    return looks.result()


def test_ground_edges_are_slant_over_sine() -> None:
    incidence = np.array([30.0, 30.0, 90.0 - 1e-9, 45.0])
    edges = ground_edges(incidence, 1.5)
    assert np.allclose(edges, np.cumsum([0.0, 3.0, 3.0, 1.5, 1.5 * math.sqrt(2)]), rtol=1e-12)


@pytest.mark.parametrize(("incidence", "spacing"), [([30.0, np.nan], 1.5), ([0.0], 1.5), ([90.0], 1.5), ([30.0], 0.0)])
def test_ground_edges_refuse_what_is_no_geometry(incidence: list[float], spacing: float) -> None:
    with pytest.raises(DataError, match="slant range"):
        ground_edges(np.array(incidence), spacing)


def test_box_weights_are_areas() -> None:
    # Cells 0-2, 2-3, 3-7, 7-8 and targets of 3 m: 0-3, 3-6; 6-8 is no whole cell.
    found = weights(np.array([0.0, 2.0, 3.0, 7.0, 8.0]), 3.0).toarray()
    assert np.allclose(found, [[2, 1, 0, 0], [0, 0, 3, 0]], atol=1e-12)
    # Finer than the input: each target lies in one or two cells.
    found = weights(np.array([10.0, 12.0, 15.0]), 1.5).toarray()
    assert np.allclose(found, [[1.5, 0.0], [0.5, 1.0], [0.0, 1.5]], atol=1e-12)


def test_weights_refuse_edges_and_spacings_that_give_no_cell() -> None:
    for edges, spacing in (([0.0, 1.0, 0.5], 0.2), ([0.0, 1.0], 1.1), ([0.0, 1.0], 0.0), ([0.0, np.nan], 0.5)):
        with pytest.raises(DataError, match="no cell"):
            weights(np.array(edges), spacing)


@pytest.mark.parametrize("filter", FILTERS)
def test_a_constant_stays_and_nothing_valid_is_nan(filter: Filter) -> None:
    rows = weights(np.arange(301) * 4.1, 50.0, filter)
    edges = ground_edges(np.linspace(22.7, 24.2, 400), 1.4976)
    columns = weights(edges, 50.0, filter)
    intensity = np.full((300, 400), 0.3, np.float32)
    mean, fraction = _multilook(intensity, np.ones(intensity.shape, bool), rows, columns)
    assert mean.shape == (24, int(edges[-1] / 50.0))  # 1230 m of azimuth
    assert np.allclose(mean, 0.3, rtol=1e-6)  # float32 sums of some 150 values
    assert np.allclose(fraction, 1.0, atol=1e-6)
    intensity[:, :200] = np.nan
    mean, fraction = _multilook(intensity, np.isfinite(intensity), rows, columns)
    cell, part = divmod(edges[200], 50.0)
    first = int(cell) - 1 if filter == "kaiser" else int(cell)  # the window of 2.5 cells reaches over the next
    assert bool(np.isnan(mean[:, :first]).all())
    assert bool((fraction[:, :first] == 0.0).all())
    assert np.allclose(mean[:, first + 1 :], 0.3, rtol=1e-6)
    if filter == "box":
        assert np.allclose(fraction[:, first], 1.0 - part / 50.0, atol=1e-5)


def test_mean_intensity_is_conserved() -> None:
    rng = np.random.default_rng(3)
    incidence = np.linspace(22.7, 24.2, 1000)
    edges = ground_edges(incidence, 1.4976)
    intensity = (rng.exponential(size=(500, 1000)) * (1.0 + np.arange(1000) / 500)).astype(np.float32)
    # Targets that fill the scene exactly, so that the means are of the same ground.
    spacing = edges[-1] / 75
    rows, columns = weights(np.arange(501) * 4.1, 4.1 * 12.5), weights(edges, spacing)
    mean, _ = _multilook(intensity, np.ones(intensity.shape, bool), rows, columns)
    of_ground = np.average(intensity.mean(axis=0, dtype=np.float64), weights=np.diff(edges))
    assert float(mean.mean(dtype=np.float64)) == pytest.approx(of_ground, rel=1e-6)  # asked: 1e-4


def test_an_integer_factor_is_the_block_mean() -> None:
    intensity = np.random.default_rng(1).exponential(size=(36, 48)).astype(np.float32)
    rows, columns = weights(np.arange(37) * 10.0, 60.0), weights(np.arange(49) * 10.0, 40.0)
    mean, fraction = _multilook(intensity, np.ones(intensity.shape, bool), rows, columns)
    assert np.allclose(mean, intensity.reshape(6, 6, 12, 4).mean(axis=(1, 3)), rtol=1e-6)
    assert np.allclose(fraction, 1.0, atol=1e-6)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("wavelength_m", [60.0, 100.0, 170.0, 400.0])
def test_response_to_a_wave_is_that_of_the_window(filter: Filter, wavelength_m: float) -> None:
    spacing, fine = 50.0, 0.5
    position = (np.arange(8000) + 0.5) * fine
    phase = 2j * np.pi / wavelength_m
    columns = weights(np.arange(8001) * fine, spacing, filter)
    centres = (np.arange(80) + 0.5) * spacing
    # A complex wave has one response; its intensity parts go through the same sums.
    seen = columns @ np.exp(phase * position) / spacing
    response = (seen / np.exp(phase * centres))[3:-3]  # the window is whole there
    if filter == "box":
        expected = np.sinc(spacing / wavelength_m)
    else:
        # Transform of the Kaiser window: sinh(r) / r with r^2 = beta^2 - (pi L f)^2, normalised to 1 at f = 0.
        root = np.emath.sqrt(KAISER_BETA**2 - (np.pi * KAISER_WIDTH * spacing / wavelength_m) ** 2)
        expected = (np.sinh(root) / root / (np.sinh(KAISER_BETA) / KAISER_BETA)).real
    # Pixels of 0.5 m hold the wave as steps: 1 - sinc(0.5 / 60) = 1e-5; the window is tabulated in 2000 steps.
    assert np.allclose(response, expected, atol=1e-4)


def test_kaiser_is_deaf_at_one_cycle_a_cell_and_nearly_so_at_the_box_alias() -> None:
    position = (np.arange(6000) + 0.5) * 0.5
    for wavelength, limit in ((50.0, 1e-4), (75.0, 0.2)):
        seen = {f: weights(np.arange(6001) * 0.5, 50.0, f) @ np.cos(2 * np.pi / wavelength * position) for f in FILTERS}
        assert np.abs(seen["kaiser"][3:-3]).max() / 50.0 < limit
    assert np.abs(seen["box"][3:-3]).max() / 50.0 > 0.4  # sinc(2/3) = 0.41


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), filter=st.sampled_from(FILTERS))
def test_any_block_split_is_the_brute_force(data: st.DataObject, seed: int, filter: Filter) -> None:
    rng = np.random.default_rng(seed)
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 40))
    steps_y, steps_x = rng.uniform(0.5, 2.0, height), rng.uniform(0.5, 2.0, width)
    edges = [np.concatenate([[0.0], np.cumsum(steps)]) + rng.normal() for steps in (steps_y, steps_x)]
    rows, columns = (weights(e, data.draw(st.floats(0.2, 1.0)) * (e[-1] - e[0]), filter) for e in edges)
    # Negative where noise was removed; invalid pixels hold NaN, whole lines of them among the rest.
    intensity = (rng.exponential(size=(height, width)) - 0.1).astype(np.float32)
    valid = rng.random((height, width)) < rng.choice([0.0, 0.5, 1.0], size=(height, 1))
    intensity[~valid] = np.nan
    blocks = sorted(data.draw(st.sets(st.integers(1, height), max_size=4)) - {height})
    mean, fraction = _multilook(intensity, valid, rows, columns, blocks)

    wy, wx = rows.toarray(), columns.toarray()
    area = np.einsum("ki,ij,lj->kl", wy, valid.astype(float), wx)
    power = np.einsum("ki,ij,lj->kl", wy, np.where(valid, intensity, 0.0), wx)
    known = area > 0
    assert np.array_equal(np.isnan(mean), ~known)
    # float32 sums of up to 12,000 values of size 1 that may cancel to a small mean.
    assert np.allclose(mean[known], (power[known] / area[known]), rtol=1e-4, atol=1e-5)
    assert np.allclose(fraction, area / np.outer(wy.sum(axis=1), wx.sum(axis=1)), atol=1e-5)


def test_weights_sum_to_the_spacing_and_are_never_negative() -> None:
    for filter in FILTERS:
        found = weights(ground_edges(np.linspace(34.0, 38.0, 700), 2.73), 50.0, filter)
        assert np.allclose(found.sum(axis=1), 50.0, rtol=1e-12)
        assert found.data.min() >= 0.0


def test_a_block_that_does_not_fit_is_refused() -> None:
    looks = Multilook(weights(np.arange(11.0), 2.0), weights(np.arange(9.0), 2.0))
    block = np.ones((4, 8), np.float32)
    for first, shape in ((7, (4, 8)), (-1, (4, 8)), (0, (4, 7))):
        with pytest.raises(DataError, match="does not fit"):
            looks.add(first, block[:, : shape[1]], np.ones(shape, bool))
