"""Preprocessing: closed forms of every step, and refusals that name the fix."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from groundswell.config import validate
from groundswell.encoder.pixels import ring_median, standardised
from groundswell.encoder.preprocessing import DEFAULTS, ChannelInput, Preprocessing, PreprocessingSettings
from groundswell.errors import ConfigError, DataError, QuantityError
from groundswell.physics.geometry import incidence_profile
from groundswell.physics.gmf import cmod5n
from groundswell.physics.imagette import Channel, Quantity

VV_DB = (Channel("VV", Quantity.SIGMA0_DB),)


def made_for(quantity: Quantity, size: int = 16, spacing_m: float | None = 50.0, **given: object) -> Preprocessing:
    wanted = PreprocessingSettings(quantity=quantity, size=size, **given)
    return wanted.resolve((Channel("VV", quantity),), size, size, spacing_m)


def rows(count: int, **columns: object) -> pd.DataFrame:
    known = {"incidence_near_deg": 22.0, "incidence_far_deg": 24.5, "range_spacing_m": 50.0, "azimuth_spacing_m": 50.0}
    return pd.DataFrame({"id": [f"i{i}" for i in range(count)]} | {**known, **columns})


def test_the_sea_of_the_reference_is_zero_at_every_incidence() -> None:
    # roughness_db is defined so that CMOD5.N at 10 m/s and 45 degrees is 0 in each column; 7.5 dB above it is 1.
    incidence = torch.from_numpy(incidence_profile(22.0, 24.5, 16))
    sea_db = 10 * np.log10(cmod5n(10.0, 45.0, incidence).numpy())
    pixels = np.broadcast_to(sea_db, (1, 1, 16, 16)).astype(np.float32)
    chain = made_for(Quantity.ROUGHNESS_DB)
    for above, expected in ((0.0, 0.0), (7.5, 1.0), (-7.5, -1.0), (15.1, 2.0), (-40.0, -2.0)):
        result = chain(pixels + np.float32(above), VV_DB, rows(1))
        # float32 dB near -10 have steps of 1e-6
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_linear_and_decibels_meet() -> None:
    sigma0 = np.random.default_rng(0).gamma(4.0, 0.01, (3, 1, 20, 20)).astype(np.float32)
    chain = made_for(Quantity.ROUGHNESS_DB)
    linear = chain(sigma0, (Channel("VV", Quantity.SIGMA0),), rows(3))
    decibels = chain((10 * np.log10(sigma0.astype(np.float64))).astype(np.float32), VV_DB, rows(3))
    torch.testing.assert_close(linear, decibels, atol=1e-6, rtol=0)


def test_a_quicklook_spans_minus_one_to_one() -> None:
    pixels = np.linspace(0, 255, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    result = made_for(Quantity.QUICKLOOK)(pixels, (Channel("VV", Quantity.QUICKLOOK),))
    np.testing.assert_allclose(result.numpy(), (pixels - 127.5) / 127.5, atol=1e-7)


def test_uncalibrated_amplitude_does_not_feel_gain() -> None:
    amplitude = np.random.default_rng(1).rayleigh(1.0, (2, 1, 16, 16)).astype(np.float32)
    channel = (Channel("VV", Quantity.AMPLITUDE),)
    chain = made_for(Quantity.AMPLITUDE)
    torch.testing.assert_close(chain(amplitude, channel), chain(amplitude * 1024, channel), atol=1e-6, rtol=0)


@given(gamma=st.floats(0.2, 2.0), scale=st.floats(0.5, 4.0))
def test_the_power_law_keeps_signs_and_comes_before_the_clip(gamma: float, scale: float) -> None:
    pixels = np.linspace(-1.5, 1.5, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    chain = made_for(Quantity.SIGMA0, gamma=gamma, clip=(-1.0, 1.0), offset=0.25, scale=scale)
    x = pixels.astype(np.float64)
    expected = ((np.sign(x) * np.abs(x) ** gamma).clip(-1, 1) - 0.25) / scale
    # float32 powers err by some 1e-7 of values about 1, which a scale of 0.5 doubles
    np.testing.assert_allclose(chain(pixels, (Channel("VV", Quantity.SIGMA0),)).numpy(), expected, atol=1e-6)


def test_uncalibrated_amplitude_is_standardised_after_its_root() -> None:
    amplitude = np.random.default_rng(3).rayleigh(40.0, (2, 1, 16, 16)).astype(np.float32)
    amplitude[1, 0, 4, 4] = np.nan
    result = made_for(Quantity.AMPLITUDE)(amplitude, (Channel("VV", Quantity.AMPLITUDE),)).numpy()
    root = np.sqrt(amplitude.astype(np.float64))
    mean, std = (f(root, axis=(2, 3), keepdims=True) for f in (np.nanmean, np.nanstd))
    expected = (root - mean) / std  # a Rayleigh root lies within (-4, 8) standard deviations here: nothing is clipped
    valid = np.isfinite(amplitude)
    np.testing.assert_allclose(result[valid], expected[valid], atol=1e-5)
    assert np.isfinite(result).all()


@given(hnp.arrays(np.float32, (2, 1, 8, 8), elements=st.floats(-1e4, 1e4, width=32) | st.just(math.nan)))
def test_standardising_agrees_with_numpy(images: np.ndarray) -> None:
    result = standardised(torch.from_numpy(images)).numpy()
    for image, out in zip(images[:, 0].astype(np.float64), result[:, 0], strict=True):
        valid = np.isfinite(image)
        assert (np.isnan(out) == ~valid).all()
        if valid.any() and np.std(image[valid]) > 1e-3 * max(1.0, abs(np.mean(image[valid]))):
            expected = (image[valid] - np.mean(image[valid])) / np.std(image[valid])
            np.testing.assert_allclose(out[valid], expected, rtol=1e-5, atol=1e-5)
        else:
            assert np.isfinite(out[valid]).all()


@given(
    hnp.arrays(np.float32, (2, 3, 7, 9), elements=st.floats(-100, 100, width=32) | st.just(math.nan)),
)
def test_ring_median_agrees_with_numpy(images: np.ndarray) -> None:
    ring = np.ones((7, 9), dtype=bool)
    ring[1:-1, 1:-1] = False
    result = ring_median(torch.from_numpy(images)).numpy()
    for n, c in np.ndindex(2, 3):
        values = images[n, c][ring]
        values = values[np.isfinite(values)]
        if values.size:
            np.testing.assert_allclose(result[n, c], np.median(values.astype(np.float64)), rtol=1e-6, atol=1e-5)
        elif np.isfinite(images[n, c]).any():
            assert np.isin(result[n, c], images[n, c])
        else:
            assert result[n, c] == 0.0


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(8, 40))
def test_fit_crops_and_fills_but_never_resizes(height: int, width: int, size: int) -> None:
    images = torch.arange(2 * height * width, dtype=torch.float32).reshape(2, 1, height, width)
    fitted = made_for(Quantity.QUICKLOOK, size=size).fit(images)
    assert fitted.shape == (2, 1, size, size)
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    kept = images[..., top : top + size, left : left + size]
    y, x = (size - kept.shape[-2]) // 2, (size - kept.shape[-1]) // 2
    inside = torch.zeros_like(fitted, dtype=torch.bool)
    inside[..., y : y + kept.shape[-2], x : x + kept.shape[-1]] = True
    assert torch.equal(fitted[inside], kept.flatten())
    fill = ring_median(kept)[..., None, None].expand_as(fitted)
    assert torch.equal(fitted[~inside], fill[~inside])


def test_missing_pixels_take_the_median_of_the_ring() -> None:
    pixels = np.full((1, 1, 16, 16), 100.0, np.float32)
    pixels[0, 0, 5:9, 5:9] = np.nan
    pixels[0, 0, 2, 2] = np.inf
    pixels[0, 0, 6, 12] = 200.0
    result = made_for(Quantity.QUICKLOOK)(pixels, (Channel("VV", Quantity.QUICKLOOK),))
    expected = np.full((16, 16), (100 - 127.5) / 127.5)
    expected[6, 12] = (200 - 127.5) / 127.5
    np.testing.assert_allclose(result[0, 0].numpy(), expected, atol=1e-6)


def test_one_image_does_not_depend_on_its_batch() -> None:
    pixels = np.random.default_rng(2).normal(-8, 3, (5, 1, 20, 20)).astype(np.float32)
    pixels[3, 0, :4] = np.nan
    table = rows(5, incidence_near_deg=np.linspace(22, 36, 5), incidence_far_deg=np.linspace(24, 38, 5))
    chain = made_for(Quantity.ROUGHNESS_DB)
    together = chain(pixels, VV_DB, table)
    for i in range(5):
        assert torch.equal(together[i], chain(pixels[i : i + 1], VV_DB, table.iloc[i : i + 1])[0])


def test_channels_are_found_by_name() -> None:
    chain = PreprocessingSettings(channels=("VH", "VV")).resolve(
        (Channel("VV", Quantity.QUICKLOOK), Channel("VH", Quantity.QUICKLOOK)), 16, 16
    )
    pixels = np.stack([np.full((16, 16), 10.0), np.full((16, 16), 20.0)])[None].astype(np.float32)
    result = chain(pixels, (Channel("VV", Quantity.QUICKLOOK), Channel("VH", Quantity.QUICKLOOK)))
    np.testing.assert_allclose(result[0, :, 0, 0].numpy(), (np.array([20.0, 10.0]) - 127.5) / 127.5, atol=1e-7)
    assert made_for(Quantity.QUICKLOOK).match((Channel("intensity", Quantity.QUICKLOOK),)) == [0]


@pytest.mark.parametrize("names", [("VH",), ("intensity", "other"), ("VH", "HH")])
def test_another_polarisation_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="takes the channels VV"):
        made_for(Quantity.QUICKLOOK).match(tuple(Channel(n, Quantity.QUICKLOOK) for n in names))


@pytest.mark.parametrize("given", [Quantity.QUICKLOOK, Quantity.AMPLITUDE, Quantity.RATIO])
def test_what_physics_cannot_convert_is_refused(given: Quantity) -> None:
    with pytest.raises(QuantityError, match="fix: "):
        made_for(Quantity.ROUGHNESS_DB)(np.ones((1, 1, 16, 16), np.float32), (Channel("VV", given),), rows(1))


def test_unknown_incidence_is_refused_and_the_centre_is_enough() -> None:
    pixels = np.full((2, 1, 16, 16), -8.0, np.float32)
    chain = made_for(Quantity.ROUGHNESS_DB)
    unknown = rows(2, incidence_near_deg=[22.0, np.nan])
    with pytest.raises(QuantityError, match=r"i1 \(1 of 2 images\)"):
        chain(pixels, VV_DB, unknown)
    with pytest.raises(QuantityError, match="needs the incidence"):
        chain(pixels, VV_DB)
    centre = chain(pixels, VV_DB, unknown.assign(incidence_deg=23.0))
    expected = (-8.0 - 10 * math.log10(float(cmod5n(10.0, 45.0, 23.0)))) / 7.5
    np.testing.assert_allclose(centre[1].numpy(), expected, atol=1e-6)


def test_another_spacing_is_refused_unless_allowed() -> None:
    pixels = np.full((2, 1, 16, 16), -8.0, np.float32)
    chain = made_for(Quantity.SIGMA0_DB)
    chain(pixels, VV_DB, rows(2, range_spacing_m=[54.9, 45.1]))  # within a tenth
    chain(pixels, VV_DB, rows(2, range_spacing_m=[None, 50.0]))  # unknown
    far = rows(2, azimuth_spacing_m=[50.0, 56.0])
    with pytest.raises(DataError, match=r"azimuth_spacing_m of i1: 56 m"):
        chain(pixels, VV_DB, far)
    allowed = chain.model_copy(update={"spacing_tolerance": math.inf})
    assert allowed.hash == chain.hash
    assert allowed(pixels, VV_DB, far).shape == (2, 1, 16, 16)


BOTH_DB = (*VV_DB, Channel("VH", Quantity.SIGMA0_DB))


@pytest.mark.parametrize(
    ("channels", "columns", "refusal"),
    [
        (BOTH_DB, {}, None),
        (BOTH_DB, {"incidence_near_deg": [22.0, np.nan, 22.0], "incidence_deg": 23.0}, None),
        (BOTH_DB, {"range_spacing_m": [50.0, 50.0, 100.0]}, r"range_spacing_m of i2: 100 m \(1 such\)"),
        (BOTH_DB, {"incidence_far_deg": [24.5, np.nan, np.nan]}, r"i1 \(2 of 3 images\)"),
        (BOTH_DB, {"incidence_near_deg": [22.0, -2.0, 22.0]}, "between 0 and 90"),  # 20 degrees at the centre
        (BOTH_DB, {"incidence_far_deg": [24.5, 24.5, 91.0]}, "between 0 and 90"),
        ((Channel("VV", Quantity.QUICKLOOK),), {}, "quicklook cannot become roughness_db"),
        ((Channel("VH", Quantity.SIGMA0_DB),), {}, "the encoder takes the channels VV"),
    ],
)
def test_what_pixels_would_be_refused_for_is_known_from_their_rows(
    channels: tuple[Channel, ...], columns: dict[str, object], refusal: str | None
) -> None:
    chain, catalogue = made_for(Quantity.ROUGHNESS_DB), rows(3, **columns)
    pixels = np.full((3, len(channels), 16, 16), 1.0, np.float32)
    for check in (lambda: chain.check(channels, catalogue), lambda: chain(pixels, channels, catalogue)):
        with nullcontext() if refusal is None else pytest.raises(DataError, match=refusal):
            check()


def test_rows_without_incidence_are_taken_where_none_is_needed() -> None:
    unknown = rows(2, incidence_near_deg=np.nan)
    made_for(Quantity.SIGMA0_DB).check((Channel("VV", Quantity.SIGMA0),), unknown)
    made_for(Quantity.ROUGHNESS_DB).check((Channel("VV", Quantity.ROUGHNESS_DB),), unknown)


def test_the_hash_names_everything_that_decides_a_number() -> None:
    chain = made_for(Quantity.ROUGHNESS_DB)
    channel = chain.channels[0]
    others = [
        chain.model_copy(update={"size": 17}),
        chain.model_copy(update={"spacing_m": 49.0}),
        *(
            chain.model_copy(update={"channels": (channel.model_copy(update=change),)})
            for change in (
                {"name": "VH"},
                {"quantity": Quantity.SIGMA0_DB},
                {"gamma": 0.5},
                {"standardise": True},
                {"clip": (-15.0, 15.1)},
                {"offset": 0.1},
                {"scale": 7.4},
            )
        ),
    ]
    assert len({chain.hash, *(o.hash for o in others)}) == 1 + len(others)
    # Pinned: tables made by an earlier groundswell stay comparable. If the chain changes, raise its version instead.
    assert chain.hash.startswith("96581cd95d78671e")


@pytest.mark.parametrize("quantity", list(Quantity))
def test_every_quantity_has_a_sensible_default(quantity: Quantity) -> None:
    chosen = ChannelInput(name="VV", quantity=quantity, **DEFAULTS[quantity])
    low, high = ((edge - chosen.offset) / chosen.scale for edge in chosen.clip)
    assert -5 <= low < 0 < high <= 12  # what the network sees stays of the order of one


@settings(max_examples=20)
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_clip_must_be_ordered(low: float, high: float) -> None:
    values = {"name": "VV", "quantity": "sigma0_db", "clip": (low, high), "offset": 0.0, "scale": 1.0}
    if low < high:
        assert validate(ChannelInput, values).clip == (low, high)
    else:
        with pytest.raises(ConfigError, match="low < high"):
            validate(ChannelInput, values)


def test_a_recipe_that_asks_for_a_missing_channel_is_refused() -> None:
    with pytest.raises(DataError, match="no channel 'VH'"):
        PreprocessingSettings(channels=("VH",)).resolve(VV_DB, 16, 16)
