"""Quantities: closed forms, round trips, forbidden conversions, and what gives away a wrong declaration."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundswell.errors import QuantityError
from groundswell.physics.gmf import cmod5n
from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import FLOOR_DB, MEANINGS, convert, looks_like_dn, roughness_reference_db

CALIBRATED = (Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB)
INCIDENCE = np.stack([np.linspace(22.8, 24.2, 12), np.linspace(35.9, 37.1, 12)])  # WV1, WV2


def sea(seed: int = 0) -> np.ndarray:
    """sigma0 [2, 9, 12] between -27 and 0 dB."""
    return (10.0 ** np.random.default_rng(seed).uniform(-2.7, 0.0, (2, 9, 12))).astype(np.float32)


def test_reference_is_the_published_sea() -> None:
    # 0.29205 at 23.5 and 0.04559 at 36.5 degrees (reference values of the GMF port, 10 digits there): 8.07 dB apart.
    expected = 10 * np.log10([0.2920489221188, 0.0455900721064])
    np.testing.assert_allclose(roughness_reference_db(np.array([23.5, 36.5])), expected, atol=1e-8)


def test_roughness_of_the_reference_sea_is_zero() -> None:
    sigma0 = cmod5n(10.0, 45.0, torch.as_tensor(INCIDENCE)).numpy()
    image = np.repeat(sigma0[:, None, :], 5, axis=1).astype(np.float32)
    # float32 sigma0 carries 6e-8 relative error, which is 2.6e-7 dB
    np.testing.assert_allclose(convert(image, "sigma0", "roughness_db", INCIDENCE), 0.0, atol=1e-6)


def test_roughness_removes_each_column_s_own_incidence() -> None:
    flat = np.full((2, 3, 12), 0.1, np.float32)
    roughness = convert(flat, Quantity.SIGMA0, Quantity.ROUGHNESS_DB, INCIDENCE)
    expected = -10.0 - roughness_reference_db(INCIDENCE)
    np.testing.assert_allclose(roughness, np.repeat(expected[:, None, :], 3, axis=1), atol=2e-6)
    # a sea that is equally bright at a larger incidence is a rougher sea
    assert np.all(np.diff(roughness, axis=2) > 0)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(CALIBRATED, 2)))
def test_round_trips(source: Quantity, target: Quantity) -> None:
    start = convert(sea(), Quantity.SIGMA0, source, INCIDENCE)
    back = convert(convert(start, source, target, INCIDENCE), target, source, INCIDENCE)
    assert back.dtype == np.float32
    # float32 decibels up to 30 are spaced 2e-6 dB, that is 4.4e-7 relative in power
    np.testing.assert_allclose(back, start, rtol=1e-6, atol=4e-6)


def test_two_ways_to_roughness_agree() -> None:
    direct = convert(sea(), "sigma0", "roughness_db", INCIDENCE)
    detour = convert(convert(sea(), "sigma0", "sigma0_db"), "sigma0_db", "roughness_db", INCIDENCE)
    np.testing.assert_allclose(direct, detour, atol=4e-6)


def test_negatives_zeros_and_gaps() -> None:
    pixels = np.array([[[-0.01, 0.0, 1e-6, 1e-4, np.nan]]], np.float32)
    decibels = convert(pixels, "sigma0", "sigma0_db")
    np.testing.assert_allclose(decibels[0, 0, :3], FLOOR_DB)
    assert decibels[0, 0, 3] == pytest.approx(-40.0, abs=1e-5)
    assert np.isnan(decibels[0, 0, 4])


def test_same_quantity_is_untouched() -> None:
    pixels = sea() - 0.1  # negatives must survive
    assert np.array_equal(convert(pixels, "sigma0", "sigma0"), pixels)


@pytest.mark.parametrize(
    ("source", "target"),
    [  # every pair that physics does not allow
        (s, t)
        for s in Quantity
        for t in Quantity
        if s is not t
        and not (s in CALIBRATED and t in CALIBRATED)
        and not (t is Quantity.QUICKLOOK and s is not Quantity.RATIO)
    ],
)
def test_forbidden_conversions_name_the_fix(source: Quantity, target: Quantity) -> None:
    with pytest.raises(QuantityError) as caught:
        convert(sea(), source, target, INCIDENCE)
    assert caught.value.fix
    assert "sigma0" in caught.value.fix
    assert source.value in caught.value.what
    assert target.value in caught.value.what


def test_roughness_without_incidence_names_the_columns_to_fill() -> None:
    for incidence in (None, np.full((2, 12), np.nan)):
        with pytest.raises(QuantityError, match="incidence") as caught:
            convert(sea(), "sigma0", "roughness_db", incidence)
        assert "incidence_near_deg" in str(caught.value)
    with pytest.raises(QuantityError, match="one angle for each"):
        convert(sea(), "sigma0", "roughness_db", INCIDENCE[:, :4])


def test_quicklook_is_the_percentile_stretch_of_power() -> None:
    pixels = sea(3)
    low, high = np.percentile(pixels[1].astype(np.float64), [1, 99])
    expected = np.clip(np.rint((pixels[1].astype(np.float64) - low) / (high - low) * 255), 0, 255)
    shown = convert(pixels, "sigma0", "quicklook")
    assert np.array_equal(shown[1], expected)
    # the same picture from decibels and from amplitude, within the rounding of the last grey level
    decibels = convert(convert(pixels, "sigma0", "sigma0_db"), "sigma0_db", "quicklook")
    amplitude = convert(np.sqrt(pixels), "amplitude", "quicklook")
    assert np.abs(decibels - shown).max() <= 1
    assert np.abs(amplitude - shown).max() <= 1


@given(gain=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_quicklook_loses_the_absolute_level(gain: float, seed: int) -> None:
    pixels = sea(seed)
    a, b = (convert(p, "sigma0", "quicklook") for p in (pixels, pixels * np.float32(gain)))
    assert np.abs(a - b).max() <= 1  # float32 rounding may move a value across one grey level
    assert a.min() == 0
    assert a.max() == 255


def test_quicklook_ignores_gaps_and_survives_a_constant() -> None:
    pixels = sea()
    pixels[0, :4] = np.nan
    pixels[1] = 0.25
    shown = convert(pixels, "sigma0", "quicklook")
    assert np.isnan(shown[0, :4]).all()
    assert np.array_equal(shown[0, 4:], convert(pixels[:1, 4:], "sigma0", "quicklook")[0])
    assert np.array_equal(shown[1], np.zeros((9, 12)))


def test_dn_and_decibels_declared_sigma0_are_seen() -> None:
    rng = np.random.default_rng(0)
    speckle = rng.gamma(1.0, size=(64, 64))
    assert looks_like_dn(0.05 * speckle) is None
    assert looks_like_dn(0.002 * speckle - 0.0066) is None  # a calm sea after noise removal: mostly negative
    assert looks_like_dn(np.full(9, np.nan)) is None
    assert "digital numbers" in str(looks_like_dn(np.rint(80 * np.sqrt(speckle))))
    assert "digital numbers" in str(looks_like_dn(6400.5 * speckle))
    assert "decibels" in str(looks_like_dn(10 * np.log10(0.05 * speckle)))


def test_real_calibrated_chips_are_not_mistaken(real_data) -> None:  # type: ignore[no-untyped-def]
    import tifffile

    files = sorted((real_data / "opensarship").glob("products/*/Patch_Cal/*.tif"))[::10]
    assert len(files) >= 30
    assert [f.name for f in files if looks_like_dn(tifffile.imread(f))] == []


def test_every_quantity_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Quantity)
