"""Waves in an image: the wavenumber spectrum of its modulation, and the azimuth cut-off.

What is analysed is the modulation of intensity, m = I / <I> - 1, where <I> is the mean over a kilometre or two: gusts,
fronts and the trend over incidence are divided out, waves stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError

Floats = NDArray[np.float64]

BACKGROUND_M = 500.0
"""Standard deviation of the Gaussian mean that stands for <I>: waves of 1 km lose 1 % of their amplitude."""
SEGMENT = 128
"""Side of the segments whose periodograms are averaged, pixels."""
LONGEST_LAG_M = 500.0
SMALLEST_SHARE = 0.02
"""A correlation below this share of the variance is not told from speckle, and no cut-off is given."""
LARGEST_M = 800.0
"""A longer fit is of slicks, rain or fronts: the sea smears no further, and no cut-off is given."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A two-dimensional spectrum of modulation.

    Attributes
    ----------
    k_range, k_azimuth : float64 [n], [m]
        Wavenumbers, rad/m, ascending through 0.
    density : float64 [m, n]
        m^2 / rad^2; its sum times both steps of wavenumber is the variance of the modulation.
    """

    k_range: Floats
    k_azimuth: Floats
    density: Floats

    def peak(self, shortest_m: float = 80.0, longest_m: float = 800.0) -> tuple[float, float]:
        """Wavelength (m) and angle from the range axis towards azimuth (degrees, -90 to 90) of the strongest waves.

        Waves run both ways in a spectrum of one image: the angle is one of two that differ by 180 degrees.
        """
        k = np.hypot(self.k_azimuth[:, None], self.k_range)
        inside = (k >= 2 * math.pi / longest_m) & (k <= 2 * math.pi / shortest_m) & (self.k_range >= 0.0)
        row, column = np.unravel_index(np.argmax(np.where(inside, self.density * k, -1.0)), k.shape)
        return float(2 * math.pi / k[row, column]), float(
            np.rad2deg(np.arctan2(self.k_azimuth[row], self.k_range[column]))
        )


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The fit of a exp(-(pi y / wavelength)^2) to the azimuth autocorrelation.

    Attributes
    ----------
    wavelength_m : float or None
        The azimuth cut-off; None where nothing but speckle is correlated, or what is no waves.
    amplitude : float
        a, the share of the variance that is not white.
    lag_m, autocorrelation : float64 [n]
        From lag 0 to `LONGEST_LAG_M`; 1 at lag 0.
    """

    wavelength_m: float | None
    amplitude: float
    lag_m: Floats
    autocorrelation: Floats

    def model(self, lag_m: Floats) -> Floats:
        """The fitted curve at lags (m) ``[n]``; NaN where there is no fit."""
        if self.wavelength_m is None:
            return np.full(len(lag_m), np.nan)
        return np.asarray(self.amplitude * np.exp(-((np.pi * lag_m / self.wavelength_m) ** 2)))


def modulation(intensity: NDArray[np.floating[Any]], spacing_m: tuple[float, float]) -> Floats:
    """I / <I> - 1 of intensity ``[H, W]`` (azimuth, range; linear); NaN where there is none.

    Parameters
    ----------
    spacing_m : (azimuth, range)

    Raises
    ------
    DataError
        When no pixel is valid, or the mean is not positive.
    """
    from scipy.ndimage import gaussian_filter

    valid = np.isfinite(intensity)
    values = np.where(valid, intensity, 0.0).astype(np.float64)
    sigma = [BACKGROUND_M / step for step in spacing_m]
    weight = gaussian_filter(valid.astype(np.float64), sigma, truncate=3.0)
    mean = gaussian_filter(values, sigma, truncate=3.0) / np.where(weight > 0, weight, np.nan)
    if not valid.any() or not values[valid].mean() > 0.0:
        raise DataError(
            "there is nothing to analyse in this image", why="no valid pixel, or a mean that is not positive"
        )
    mean = np.maximum(mean, 0.01 * values[valid].mean())  # where noise removal left nothing
    return np.asarray(np.where(valid, values / mean - 1.0, np.nan))


def spectrum(field: Floats, spacing_m: tuple[float, float]) -> Spectrum:
    """The spectrum of a modulation ``[H, W]``: mean periodogram of overlapping segments under a Hann window.

    Source: Welch (1967), IEEE Trans. Audio Electroacoust. 15, 70, in two dimensions. NaN counts as no modulation.
    """
    field = np.nan_to_num(field)
    size = tuple(min(SEGMENT, n) for n in field.shape)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in size))
    window /= np.sqrt((window**2).mean())
    starts = [
        np.unique(np.linspace(0, n - s, max(1, math.ceil(2 * n / s) - 1)).astype(int))
        for n, s in zip(field.shape, size, strict=True)
    ]
    power = np.zeros(size)
    for y in starts[0]:
        for x in starts[1]:
            part = field[y : y + size[0], x : x + size[1]]
            power += np.abs(np.fft.fft2((part - part.mean()) * window)) ** 2
    area = spacing_m[0] * spacing_m[1] / (size[0] * size[1] * (2 * math.pi) ** 2)
    density = np.fft.fftshift(power) * area / (len(starts[0]) * len(starts[1]))
    k = [2 * math.pi * np.fft.fftshift(np.fft.fftfreq(n, step)) for n, step in zip(size, spacing_m, strict=True)]
    return Spectrum(k[1], k[0], density)


def azimuth_cutoff(field: Floats, azimuth_spacing_m: float) -> Cutoff:
    """The azimuth cut-off of a modulation ``[H, W]`` (rows along azimuth).

    The autocorrelation along azimuth, its mean over range, is fitted from the first lag on: the variance at lag 0
    holds speckle and noise, which say nothing of waves. A cut-off under about four pixels leaves one lag on the curve
    and is poorly known: ask for a finer spacing.

    Source: Kerbaol, Chapron and Vachon (1998), J. Geophys. Res. 103, 7833, for the Gaussian form.
    """
    from scipy.optimize import curve_fit

    valid = np.isfinite(field)
    values = np.where(valid, field - np.nanmean(field), 0.0)
    length = 2 * len(field)  # zeros behind, so that no lag wraps around

    def correlate(part: NDArray[Any]) -> Floats:
        power = np.abs(np.fft.rfft(part, length, axis=0)) ** 2
        return np.asarray(np.fft.irfft(power.sum(axis=1), length))

    count = int(min(max(LONGEST_LAG_M / azimuth_spacing_m, 4), len(field) - 1)) + 1
    pairs = correlate(valid.astype(np.float64))[:count]
    raw = correlate(values)[:count] / np.maximum(pairs, 1.0)
    lag = np.arange(count, dtype=np.float64) * azimuth_spacing_m
    curve: Floats = np.zeros(count)
    if raw[0] > 0.0:
        curve = np.asarray(raw / raw[0], dtype=np.float64)

    def gaussian(y: Floats, amplitude: float, wavelength: float) -> Floats:
        return np.asarray(amplitude * np.exp(-((np.pi * y / wavelength) ** 2)))

    if count < 4 or curve[1] < SMALLEST_SHARE:
        return Cutoff(None, 0.0, lag, curve)
    bounds = ([0.0, azimuth_spacing_m], [1.0, 4 * LONGEST_LAG_M])  # no correlation exceeds 1
    (amplitude, wavelength), _ = curve_fit(gaussian, lag[1:], curve[1:], (min(curve[1], 0.99), 250.0), bounds=bounds)
    return Cutoff(float(wavelength) if wavelength <= LARGEST_M else None, float(amplitude), lag, curve)
