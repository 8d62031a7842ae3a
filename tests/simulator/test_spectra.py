"""The directional spectrum: heights, spreading, orbital velocity against closed forms."""

import math

import numpy as np
import pytest
import torch

from groundswell.simulator.spectra import (
    GRAVITY,
    WaveSystems,
    amplitudes,
    frequency_spectrum,
    jonswap_shape,
    radial_velocity_variance,
    spreading_function,
    wave_grid,
)


def systems(batch: int, *rows: tuple[float, float, float, float, float]) -> WaveSystems:
    """``rows`` of (hs, tp, gamma, direction, spreading), the same for every scene."""
    table = torch.tensor(rows).T[:, None].expand(-1, batch, -1)
    return WaveSystems(*table)


@pytest.mark.parametrize(("tp", "gamma"), [(5.0, 1.0), (9.0, 3.3), (16.0, 5.0)])
def test_spectrum_holds_the_height_and_peaks_where_it_should(tp: float, gamma: float) -> None:
    omega, spectrum = frequency_spectrum(systems(1, (2.5, tp, gamma, 0.0, 4.0)))
    m0 = torch.trapezoid(spectrum[0, 0], omega)
    assert 4.0 * math.sqrt(float(m0)) == pytest.approx(2.5, rel=1e-6)
    peak = float(omega[spectrum[0, 0].argmax()])
    assert peak == pytest.approx(2 * math.pi / tp, rel=0.01)  # the frequency step is 0.4 %


def test_pierson_moskowitz_limit_has_its_closed_form() -> None:
    # With gamma = 1 the shape is w^-5 exp(-1.25 (wp/w)^4), whose integral is 1 / (5 wp^4).
    omega = torch.linspace(0.05, 60, 400_000, dtype=torch.float64)
    shape = jonswap_shape(omega, torch.tensor(8.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    assert float(torch.trapezoid(shape, omega)) == pytest.approx(1 / (5 * (2 * math.pi / 8) ** 4), rel=1e-5)


@pytest.mark.parametrize("s", [2.0, 6.0, 25.0, 80.0])
def test_spreading_integrates_to_one(s: float) -> None:
    delta = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
    integral = torch.trapezoid(spreading_function(delta, torch.tensor(s, dtype=torch.float64)), delta)
    assert float(integral) == pytest.approx(1.0, abs=1e-9)


# Directions along range, along azimuth (the column kx = 0 of a real transform) and between.
@pytest.mark.parametrize("direction", [0.0, math.pi / 2, 2.2])
def test_height_is_recovered_from_the_surface(direction: float) -> None:
    batch, grid = 24, wave_grid(192, 25.0, torch.device("cpu"))
    waves = systems(batch, (3.0, 13.0, 3.3, direction, 30.0), (1.0, 10.0, 3.3, direction + 2.0, 30.0))
    noise = torch.randn(batch, 2, 2, 192, 97, generator=torch.Generator().manual_seed(3))
    total, _ = amplitudes(waves, grid, noise)
    surface = torch.fft.irfft2(total, s=(192, 192), norm="forward")
    recovered = 4.0 * math.sqrt(float(surface.square().mean()))
    # Sampling: 24 scenes of about 60 independent modes give 1.3 % on Hs (one sigma); swell loses under 1 % to the grid.
    assert recovered == pytest.approx(math.sqrt(10.0), rel=0.05)


def test_travelling_waves_move_the_way_they_should() -> None:
    """A step of time turns P by -w t: the surface seen later is the surface moved along the direction of travel."""
    grid = wave_grid(128, 25.0, torch.device("cpu"))
    waves = systems(1, (2.0, 14.0, 5.0, 0.0, 200.0))
    noise = torch.randn(1, 2, 2, 128, 65, generator=torch.Generator().manual_seed(1))
    total, difference = amplitudes(waves, grid, noise)
    elevation = torch.fft.irfft2(total, s=(128, 128), norm="forward")[0]
    # Waves to +x: backward amplitudes vanish, and both combinations are the same numbers.
    assert float((total - difference).abs().max()) < 1e-6 * float(total.abs().max())
    # d zeta / dt = -c d zeta / dx for waves to +x, so its correlation with the range slope is negative.
    rate = torch.fft.irfft2(-1j * grid.omega * difference, s=(128, 128), norm="forward")[0]
    slope = torch.fft.irfft2(1j * grid.kx * total, s=(128, 128), norm="forward")[0]
    correlation = float((rate * slope).mean() / (rate.std() * slope.std()))
    assert correlation < -0.95
    assert float(elevation.std()) > 0.3


def test_radial_velocity_of_a_narrow_swell() -> None:
    # One long-crested wave along range: radial velocity variance is w^2 m0 at any incidence (circular orbits).
    waves = systems(1, (2.0, 12.0, 1000.0, 0.0, 2000.0))
    incidence = torch.tensor([30.0])
    expected = (2 * math.pi / 12) ** 2 * (2.0 / 4) ** 2
    # Even with gamma = 1000 the peak has some width, and the high tail carries velocity: 10 %.
    assert float(radial_velocity_variance(waves, incidence)) == pytest.approx(expected, rel=0.10)
    # Along azimuth only the vertical part is seen.
    across = systems(1, (2.0, 12.0, 1000.0, math.pi / 2, 2000.0))
    ratio = float(radial_velocity_variance(across, incidence) / radial_velocity_variance(waves, incidence))
    assert ratio == pytest.approx(math.cos(math.radians(30)) ** 2, rel=0.01)


def test_resolved_and_unresolved_velocity_add_up() -> None:
    waves = systems(16, (2.2, 7.0, 2.0, 0.4, 4.0))
    incidence = torch.full((16,), 23.5)
    grid = wave_grid(256, 25.0, torch.device("cpu"))
    noise = torch.randn(16, 2, 2, 256, 129, generator=torch.Generator().manual_seed(4))
    _, difference = amplitudes(waves, grid, noise)
    from groundswell.simulator.imaging import approach_velocity

    resolved = float(approach_velocity(difference, grid, incidence).square().mean())
    beyond = float(radial_velocity_variance(waves, incidence, grid.k_max)[0])
    everything = float(radial_velocity_variance(waves, incidence)[0])
    assert np.isclose(resolved + beyond, everything, rtol=0.03)  # sampling of thousands of modes: under 1 %
    assert 0.2 < beyond / everything < 0.8  # neither part may be left out
    assert grid.k_max == pytest.approx(math.pi / 25.0)
    assert GRAVITY == 9.81
