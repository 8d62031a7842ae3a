"""Controls: closed forms of every statistic, and the wind that CMOD5.N was given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from groundswell.errors import QuantityError
from groundswell.evaluation.controls import BANDS, PERCENTILES, Cmod5nEmbedder, StatisticsEmbedder
from groundswell.physics.geometry import incidence_profile
from groundswell.physics.gmf import cmod5n
from groundswell.physics.imagette import Channel, Quantity
from groundswell.physics.quantities import roughness_reference_db

DB = (Channel("VV", Quantity.SIGMA0_DB),)


def rows(count: int, **columns: object) -> pd.DataFrame:
    known = {"incidence_near_deg": 22.0, "incidence_far_deg": 24.0, "incidence_deg": 23.0}
    return pd.DataFrame({"id": [f"i{n}" for n in range(count)]} | {**known, **columns})


def statistics(pixels: np.ndarray, channels: tuple[Channel, ...] = DB, **columns: object) -> dict[str, np.ndarray]:
    vectors = StatisticsEmbedder().embed_batch(pixels.astype(np.float32), channels, rows(len(pixels), **columns))
    names = StatisticsEmbedder.names(channels)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(pixels), len(names))
    assert len(set(names)) == len(names)
    assert np.isfinite(vectors).all()
    return {name: vectors[:, i] for i, name in enumerate(names)}


def test_moments_and_percentiles_agree_with_scipy() -> None:
    pixels = np.random.default_rng(0).gamma(2.0, 1.0, (4, 1, 40, 30)).astype(np.float32)
    pixels[2, 0, :7, :9] = np.nan
    found = statistics(pixels)
    for n in range(4):
        values = pixels[n].astype(np.float64).ravel()
        values = values[np.isfinite(values)]
        expected = {
            "mean": values.mean(),
            "std": values.std(),
            "skewness": stats.skew(values),
            "kurtosis": stats.kurtosis(values, fisher=False),
            "valid_fraction": values.size / 1200,
            **{f"p{p:02d}": np.percentile(values, p) for p in PERCENTILES},
        }
        for name, value in expected.items():
            assert found[f"VV_{name}"][n] == pytest.approx(value, rel=1e-5), name  # stored as float32


def band(frequency: float) -> int:
    return int(np.searchsorted(BANDS, frequency, side="right")) - 1


@pytest.mark.parametrize("azimuth", [3 / 64, 6 / 64, 12 / 64, 24 / 64])
@pytest.mark.parametrize("range_", [0.0, 3 / 64, 24 / 64])
def test_a_wave_lies_in_its_own_band(azimuth: float, range_: float) -> None:
    y, x = np.mgrid[:64, :64]
    wave = np.cos(2 * np.pi * (azimuth * y + range_ * x) + 0.3)
    found = statistics(np.stack([wave, wave[:, ::-1]])[:, None])
    # The Hann window spreads a line over three bins a side (2/64 of the band edges): all of these lie inside a band,
    # but the lines of frequency 0, which spill into the second band of the range.
    powers = np.stack([found[f"VV_power_azimuth{a}_range{r}"] for a in range(6) for r in range(6)])
    assert (powers.argmax(axis=0) == 6 * band(azimuth) + band(range_)).all()
    np.testing.assert_allclose(powers[:, 0], powers[:, 1], atol=1e-3)  # the sign of a direction is left out


def test_white_noise_has_its_variance_in_every_band() -> None:
    # The mean of a windowed periodogram of white noise is its variance, at every frequency.
    noise = np.random.default_rng(1).normal(5.0, 2.0, (200, 1, 64, 64))
    found = statistics(noise)
    for a in range(6):
        for r in range(6):
            mean = np.mean(10.0 ** found[f"VV_power_azimuth{a}_range{r}"].astype(np.float64))
            if (a, r) == (0, 0):
                continue  # the mean is taken out, and with it part of the lowest band
            # 200 images of at least one bin: relative error 1 / sqrt(200) = 7 %, four of these
            assert mean == pytest.approx(4.0, rel=0.28), (a, r)


def test_linear_quantities_are_measured_in_decibels() -> None:
    sigma0 = np.random.default_rng(2).gamma(4.0, 0.01, (2, 1, 32, 32))
    linear = statistics(sigma0, (Channel("VV", Quantity.SIGMA0),))
    decibels = statistics(10 * np.log10(sigma0))
    for name, values in linear.items():
        np.testing.assert_allclose(values, decibels[name], rtol=1e-4, atol=1e-4)
    floor = statistics(np.full((1, 1, 8, 8), -0.01), (Channel("VV", Quantity.SIGMA0),))
    assert floor["VV_mean"] == pytest.approx(-45.0)


def test_uncalibrated_gain_shifts_levels_alone() -> None:
    amplitude = np.random.default_rng(3).rayleigh(1.0, (2, 1, 32, 32))
    channel = (Channel("VV", Quantity.AMPLITUDE),)
    once, louder = statistics(amplitude, channel), statistics(amplitude * 100, channel)
    for name in once:
        shift = 20.0 if name == "VV_mean" or name[3:5] in {"p0", "p1", "p2", "p5", "p7", "p9"} else 0.0
        np.testing.assert_allclose(louder[name] - once[name], shift, atol=2e-3, err_msg=name)


def test_channels_follow_one_another_and_incidence_comes_last() -> None:
    generator = np.random.default_rng(4)
    both = generator.normal(size=(3, 2, 16, 16))
    channels = (Channel("VV", Quantity.SIGMA0_DB), Channel("VH", Quantity.SIGMA0_DB))
    found = statistics(both, channels, incidence_near_deg=[22.0, np.nan, None])
    alone = statistics(both[:, 1:], channels[1:])
    for name in alone:
        if name.startswith("VH"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-6)
    assert found["incidence_near_deg"].tolist() == [22.0, 0.0, 0.0]
    assert list(found)[-3:] == ["incidence_near_deg", "incidence_far_deg", "incidence_deg"]


def test_degenerate_images_stay_finite() -> None:
    pixels = np.stack([np.full((1, 8, 8), np.nan), np.full((1, 8, 8), 3.0), np.zeros((1, 8, 8))])
    found = statistics(pixels)  # checks that all is finite
    assert found["VV_valid_fraction"].tolist() == [0.0, 1.0, 1.0]
    assert found["VV_mean"].tolist() == [0.0, 3.0, 0.0]
    assert found["VV_std"].tolist() == [0.0, 0.0, 0.0]


def test_one_image_does_not_depend_on_its_batch() -> None:
    pixels = np.random.default_rng(5).normal(size=(5, 1, 24, 24)).astype(np.float32)
    pixels[1, 0, 3:6] = np.nan
    together = StatisticsEmbedder().embed_batch(pixels, DB, rows(5))
    for n in range(5):
        np.testing.assert_allclose(
            StatisticsEmbedder().embed_batch(pixels[n : n + 1], DB, rows(1))[0], together[n], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("quantity", [Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB])
def test_the_wind_that_was_put_in_comes_out(quantity: Quantity) -> None:
    winds = torch.tensor([2.0, 5.0, 10.0, 15.0, 22.0], dtype=torch.float64)
    sigma0 = cmod5n(winds, 45.0, 23.0).numpy()
    pixels = np.broadcast_to(sigma0[:, None, None, None], (5, 1, 12, 12)).copy()
    incidence = incidence_profile(22.0, 24.0, 12)
    if quantity is not Quantity.SIGMA0:
        pixels = 10 * np.log10(pixels)
    if quantity is Quantity.ROUGHNESS_DB:
        pixels -= roughness_reference_db(incidence)
    vectors = Cmod5nEmbedder().embed_batch(pixels.astype(np.float32), (Channel("VV", quantity),), rows(5))
    # float32 dB near -10 are 1e-6 apart, a relative 2e-7 of sigma0, which the flat part of the model at 22 m/s
    # magnifies some ten times
    np.testing.assert_allclose(vectors[:, 0], winds, rtol=1e-5)
    np.testing.assert_allclose(vectors[:, 1], 10 * np.log10(sigma0), atol=1e-5)
    np.testing.assert_allclose(vectors[:, 2], 23.0, atol=1e-5)


def test_wind_needs_calibrated_vv_and_incidence() -> None:
    pixels = np.full((1, 1, 8, 8), 0.1, np.float32)
    for channel in (Channel("VH", Quantity.SIGMA0), Channel("VV", Quantity.QUICKLOOK)):
        with pytest.raises(QuantityError, match="needs calibrated VV"):
            Cmod5nEmbedder().embed_batch(pixels, (channel,), rows(1))
    unknown = rows(1, incidence_near_deg=[None], incidence_deg=[None])
    with pytest.raises(QuantityError, match="needs the incidence"):
        Cmod5nEmbedder().embed_batch(pixels, (Channel("VV", Quantity.SIGMA0),), unknown)
