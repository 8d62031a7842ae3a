"""Spectra and cut-offs of fields whose spectrum and autocorrelation are known in closed form."""

import math

import numpy as np
import pytest

from groundswell.errors import DataError
from groundswell.physics.imagette import Quantity
from groundswell.physics.spectrum import azimuth_cutoff, modulation, spectrum
from groundswell.simulator.source import SimulatorSettings, simulate


def gaussian_sea(cutoff_m: float, spacing_m: float = 50.0, size: int = 400, seed: int = 0) -> np.ndarray:
    """White in range; azimuth autocorrelation exp(-(pi y / cutoff)^2), by its transform exp(-(k cutoff / 2 pi)^2).

    Samples of that autocorrelation have its transform folded at the Nyquist frequency. Synthesised eight times longer
    than what is returned, so that no lag wraps around.
    """
    rng = np.random.default_rng(seed)
    k = 2 * np.pi * np.fft.rfftfreq(8 * size, spacing_m)
    folds = 2 * np.pi / spacing_m * np.arange(-3, 4)
    amplitude = np.sqrt(np.exp(-(((k[:, None] + folds) * cutoff_m / (2 * np.pi)) ** 2)).sum(axis=1))
    noise = np.fft.rfft(rng.normal(size=(8 * size, size)), axis=0)
    field = np.fft.irfft(noise * amplitude[:, None], axis=0)[:size]
    return field / field.std()


@pytest.mark.parametrize(("cutoff_m", "spacing"), [(120.0, 25.0), (220.0, 50.0), (342.0, 50.0), (450.0, 50.0)])
@pytest.mark.parametrize("speckle", [0.0, 1.0])
def test_cutoff_of_a_known_autocorrelation(cutoff_m: float, spacing: float, speckle: float) -> None:
    field = gaussian_sea(cutoff_m, spacing)
    field = field + speckle * np.random.default_rng(9).normal(size=field.shape)
    found = azimuth_cutoff(field, spacing)
    assert found.wavelength_m is not None
    # Over eight seeds the fit scatters by 1 to 2 % from four pixels on, with a bias of 1 % at most.
    assert found.wavelength_m == pytest.approx(cutoff_m, rel=0.05)
    assert found.amplitude == pytest.approx(1.0 / (1.0 + speckle**2), abs=0.05)
    assert np.allclose(found.model(found.lag_m)[1:], found.autocorrelation[1:], atol=0.03)


def test_cutoff_survives_gaps_and_a_calibrated_scale() -> None:
    field = gaussian_sea(250.0, seed=2)
    field[:30] = np.nan
    field[200:230, 100:300] = np.nan
    whole = azimuth_cutoff(field, 50.0).wavelength_m
    assert whole == pytest.approx(250.0, rel=0.03)
    assert azimuth_cutoff(7.0 * field + 3.0, 50.0).wavelength_m == pytest.approx(whole, rel=1e-6)


def test_speckle_alone_has_no_cutoff() -> None:
    field = np.random.default_rng(0).normal(size=(300, 300))
    found = azimuth_cutoff(field, 50.0)
    assert found.wavelength_m is None
    assert bool(np.isnan(found.model(found.lag_m)).all())
    assert azimuth_cutoff(np.zeros((50, 50)), 50.0).wavelength_m is None


def test_what_is_no_waves_has_no_cutoff() -> None:
    field = np.zeros((300, 300))
    field[100:160, 120:200] = -0.8  # a slick of 3 km
    assert azimuth_cutoff(field + 0.1 * np.random.default_rng(0).normal(size=field.shape), 50.0).wavelength_m is None


def test_cutoff_of_simulated_seas_goes_with_their_orbital_velocity() -> None:
    """lambda_c / (beta sigma_v) of wind-roughened seas with speckle and gusts; 2.2 to 3.4 without them."""
    settings = SimulatorSettings(count=12, seed=5, size=256, quantity=Quantity.SIGMA0)
    ratios = []
    for imagette in simulate(settings, range(12)):
        labels = imagette.labels
        if labels["sigma_v"] is None or labels["wind_speed"] < 5.0:
            continue
        found = azimuth_cutoff(modulation(imagette.pixels[0], (50.0, 50.0)), 50.0).wavelength_m
        if found is not None:
            ratios.append(found / (labels["beta"] * labels["sigma_v"]))
    assert len(ratios) >= 6
    assert 2.2 < np.median(ratios) < 3.4


def test_spectrum_holds_the_variance() -> None:
    rng = np.random.default_rng(4)
    field = rng.normal(scale=0.3, size=(400, 420))
    found = spectrum(field, (40.0, 50.0))
    steps = (found.k_range[1] - found.k_range[0]) * (found.k_azimuth[1] - found.k_azimuth[0])
    # White noise of 168,000 values; segments take the mean out of each: 1 / 128^2.
    assert found.density.sum() * steps == pytest.approx(0.09, rel=0.02)
    assert found.density.shape == (128, 128)
    assert np.allclose(np.diff(found.k_range), 2 * math.pi / (128 * 50.0))
    # White: every octave of wavenumber alike, to the scatter of some 1000 bins.
    inner = found.density[48:80, 48:80][np.arange(32) != 16]
    assert inner.mean() == pytest.approx(found.density.mean(), rel=0.05)


@pytest.mark.parametrize(("wavelength", "angle"), [(200.0, 0.0), (300.0, 35.0), (250.0, -60.0), (400.0, 90.0)])
def test_a_wave_peaks_where_it_should_with_half_its_amplitude_squared(wavelength: float, angle: float) -> None:
    y, x = np.mgrid[0:400, 0:400] * 50.0
    k = 2 * math.pi / wavelength
    phase = k * (x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle)))
    found = spectrum(0.2 * np.cos(phase), (50.0, 50.0))
    peak, direction = found.peak()
    # One bin is 2 pi / 6.4 km: 5 % of the wavenumber of a 300 m wave.
    assert 2 * math.pi / peak == pytest.approx(k, abs=2 * math.pi / 6400)
    assert abs((direction - angle + 90) % 180 - 90) < math.degrees(2 * math.pi / 6400 / k)
    steps = (found.k_range[1] - found.k_range[0]) ** 2
    assert found.density.sum() * steps == pytest.approx(0.02, rel=0.01)


def test_modulation_divides_out_level_and_trend_and_keeps_waves() -> None:
    y, x = np.mgrid[0:400, 0:400] * 50.0
    wave = 0.1 * np.cos(2 * math.pi * x / 300.0)
    for scale in (1e-3, 5.0):
        trend = scale * (1.0 + 0.5 * x / 20_000 + 0.2 * np.sin(2 * math.pi * y / 40_000))
        found = modulation((trend * (1.0 + wave)).astype(np.float32), (50.0, 50.0))
        inner = found[80:-80, 80:-80]
        assert np.abs(inner - wave[80:-80, 80:-80]).max() < 0.01  # of 0.1: trends bend a little over half a km
    intensity = np.ones((100, 100))
    intensity[:, :40] = np.nan
    found = modulation(intensity, (50.0, 50.0))
    assert bool(np.isnan(found[:, :40]).all())
    assert np.allclose(found[:, 40:], 0.0)


def test_nothing_to_analyse_is_named() -> None:
    for bad in (np.full((9, 9), np.nan), np.zeros((9, 9)), -np.ones((9, 9))):
        with pytest.raises(DataError, match="nothing to analyse"):
            modulation(bad, (50.0, 50.0))
