"""Controls: embedders that have learned nothing, judged like any encoder.

``statistics`` is what a careful person measures of an image without training anything; ``cmod5n`` is what physics
alone reads from the mean backscatter; ``random:MODEL`` is the architecture with fresh weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from groundswell.encoder.directory import load
from groundswell.encoder.encoder import random_encoder
from groundswell.encoder.pixels import incidence_of
from groundswell.encoder.preprocessing import POLARISATIONS
from groundswell.encoder.table import Embedder
from groundswell.errors import QuantityError, UsageError
from groundswell.files import digest
from groundswell.physics.gmf import invert_cmod5n
from groundswell.physics.imagette import Channel, Quantity
from groundswell.physics.quantities import FLOOR_DB, convert

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
BANDS = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Edges of the spectral bands, cycles per pixel: octaves below the Nyquist frequency."""
INCIDENCE = ("incidence_near_deg", "incidence_far_deg", "incidence_deg")
_LINEAR = {Quantity.SIGMA0, Quantity.AMPLITUDE, Quantity.RATIO}
PHI_DEG = 45.0
"""Wind direction relative to the look that stands for the unknown one, as in `roughness_db`."""


class StatisticsEmbedder:
    """Image statistics: 50 numbers a channel, and the incidence (3). No learning, no choice left open.

    Linear quantities are measured in decibels (floored), the others as they are.
    """

    id = "statistics"
    version = 1

    @property
    def preprocessing_hash(self) -> str:
        """Hash of the definition of the statistics."""
        return digest([self.id, self.version, PERCENTILES, BANDS])

    @staticmethod
    def names(channels: Sequence[Channel]) -> list[str]:
        """What each number is, in the order of the embedding."""
        bands = range(len(BANDS) - 1)
        one = ["mean", "std", "skewness", "kurtosis"]
        one += [f"p{p:02d}" for p in PERCENTILES]
        one += ["valid_fraction"]
        one += [f"power_azimuth{a}_range{r}" for a in bands for r in bands]
        return [f"{channel.name}_{name}" for channel in channels for name in one] + list(INCIDENCE)

    def embed_batch(
        self, pixels: NDArray[np.float32], channels: Sequence[Channel], rows: pd.DataFrame
    ) -> NDArray[np.float32]:
        """Statistics, float32 ``[n, 50 C + 3]``, of physical pixels, float32 ``[n, C, H, W]``.

        Per channel: mean, standard deviation, skewness, kurtosis (3 for a normal), nine percentiles, the fraction of
        valid pixels, and log10 of the mean periodogram in 6 x 6 octave bands of azimuth and range frequency, the sign
        of either left out. Then near, far and centre incidence (degrees), 0 where unknown.
        """
        parts = [
            _channel_statistics(_decibels(pixels[:, i], channel), _valid_fraction(pixels[:, i]))
            for i, channel in enumerate(channels)
        ]
        parts.append(np.stack([_known(rows, name) for name in INCIDENCE], axis=1))
        return np.concatenate(parts, axis=1).astype(np.float32)


class Cmod5nEmbedder:
    """What physics reads from the mean alone: wind by inverting CMOD5.N at 45 degrees, the mean, the incidence.

    Needs calibrated VV (``sigma0``, ``sigma0_db`` or ``roughness_db``) and the incidence.
    """

    id = "cmod5n"
    version = 1
    names = ("wind_speed", "sigma0_mean_db", "incidence_deg")

    @property
    def preprocessing_hash(self) -> str:
        """Hash of the definition."""
        return digest([self.id, self.version, PHI_DEG])

    def embed_batch(
        self, pixels: NDArray[np.float32], channels: Sequence[Channel], rows: pd.DataFrame
    ) -> NDArray[np.float32]:
        """Wind speed (m/s), mean sigma0 (dB), incidence (degrees), float32 ``[n, 3]``, of ``[n, C, H, W]``.

        Raises
        ------
        QuantityError
            When no channel is calibrated VV, or the incidence is unknown.
        """
        position = _vv(channels)
        incidence = incidence_of(rows, pixels.shape[-1])
        sigma0 = convert(pixels[:, position], channels[position].quantity, Quantity.SIGMA0, incidence)
        mean = np.nanmean(sigma0.astype(np.float64), axis=(1, 2)).clip(min=10 ** (FLOOR_DB / 10))
        centre = incidence.mean(axis=1)
        wind = invert_cmod5n(torch.from_numpy(mean), PHI_DEG, torch.from_numpy(centre)).numpy()
        return np.stack([wind, 10 * np.log10(mean), centre], axis=1).astype(np.float32)


def open_embedder(name: str, *, device: str = "auto", spacing_tolerance: float | None = None) -> Embedder:
    """The embedder called ``name``: a model directory, ``random:MODEL[:SEED]``, ``statistics`` or ``cmod5n``.

    Raises
    ------
    UsageError
        When the seed is no whole number or the device is missing.
    ModelError
        When the model cannot be loaded.
    """
    if name == StatisticsEmbedder.id:
        return StatisticsEmbedder()
    if name == Cmod5nEmbedder.id:
        return Cmod5nEmbedder()
    if name.startswith("random:"):
        path, seed = name.removeprefix("random:"), "0"
        if not Path(path).exists() and ":" in path:
            path, seed = path.rsplit(":", 1)
        if not seed.isdecimal():
            raise UsageError(f"{seed!r} is not a seed", where=name, fix="write random:MODEL:1")
        return random_encoder(load(path), int(seed)).on(device, spacing_tolerance=spacing_tolerance)
    return load(name).on(device, spacing_tolerance=spacing_tolerance)


def _vv(channels: Sequence[Channel]) -> int:
    calibrated = {Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB}
    for i, channel in enumerate(channels):
        if channel.quantity in calibrated and (channel.name == "VV" or channel.name not in POLARISATIONS):
            return i
    raise QuantityError(
        "CMOD5.N needs calibrated VV backscatter",
        where=", ".join(f"{c.name} ({c.quantity.value})" for c in channels),
        why="the model links VV sigma0 to the wind; other polarisations and uncalibrated pixels have no such link",
        fix="leave out the control cmod5n for this archive",
    )


def _valid_fraction(plane: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fraction of pixels that hold a number, float64 ``[n]``, of ``[n, H, W]``."""
    return np.asarray(np.isfinite(plane).mean(axis=(1, 2)))


def _known(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in rows:
        return np.zeros(len(rows))
    return np.asarray(np.nan_to_num(rows[name].to_numpy(dtype=np.float64, na_value=np.nan)), dtype=np.float64)


def _decibels(plane: NDArray[np.float32], channel: Channel) -> NDArray[np.float64]:
    """``[n, H, W]`` on a scale on which the sea is roughly symmetric; NaN where there is no valid pixel."""
    values = np.where(np.isfinite(plane), plane, np.nan).astype(np.float64)
    if channel.quantity not in _LINEAR:
        return values
    if channel.quantity is Quantity.SIGMA0:
        floor = np.full((len(values), 1, 1), 10 ** (FLOOR_DB / 10))
    else:  # uncalibrated: 45 dB below the image's own mean
        values = np.abs(values)
        floor = _nanmean(values)[:, None, None] * 10 ** (FLOOR_DB / 10) + np.finfo(np.float64).tiny
    return np.asarray(10 * np.log10(np.maximum(values, floor)))


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each image, 0 where it holds no number."""
    count = np.isfinite(values).sum(axis=(1, 2))
    return np.asarray(np.nansum(values, axis=(1, 2)) / np.maximum(count, 1))


def _channel_statistics(values: NDArray[np.float64], valid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers of one channel, float64 ``[n, 50]``."""
    mean = _nanmean(values)
    filled = np.where(np.isfinite(values), values, mean[:, None, None])
    share = np.maximum(valid, 1e-12)
    centred = filled - mean[:, None, None]  # exactly 0 where there is no number: adds nothing to the moments
    square = centred * centred
    m2 = square.mean(axis=(1, 2)) / share
    m3 = np.einsum("nhw,nhw->n", square, centred) / (share * np.prod(centred.shape[1:]))
    m4 = np.einsum("nhw,nhw->n", square, square) / (share * np.prod(centred.shape[1:]))
    std = np.sqrt(m2)
    safe = np.where(std > 0, std, 1.0)
    moments = np.stack([mean, std, m3 / safe**3, m4 / safe**4], axis=1)
    return np.concatenate([moments, _percentiles(values), valid[:, None], _band_power(centred)], axis=1)


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n, 9]``; 0 where an image holds no number."""
    flat = values.reshape(len(values), -1)
    complete = np.isfinite(flat).all(axis=1)
    result = np.zeros((len(PERCENTILES), len(flat)))
    if complete.any():  # many times faster than nanpercentile, which goes image by image
        result[:, complete] = np.percentile(flat[complete], PERCENTILES, axis=1)
    some = ~complete & np.isfinite(flat).any(axis=1)
    if some.any():
        result[:, some] = np.nanpercentile(flat[some], PERCENTILES, axis=1)
    return result.T


def _band_power(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10 of the mean periodogram in 6 x 6 bands, float64 ``[n, 36]`` (azimuth bands outer), of ``[n, H, W]``."""
    height, width = centred.shape[1:]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    spectrum = torch.fft.rfft2(torch.from_numpy((centred * window).astype(np.float32)))
    power = spectrum.abs().square().double() / float((window**2).sum())
    azimuth = _band_matrix(np.abs(np.fft.fftfreq(height)), np.ones(height))
    weight = np.full(width // 2 + 1, 2.0)  # rfft keeps one of each pair of conjugate columns
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    range_ = _band_matrix(np.fft.rfftfreq(width), weight)
    banded = torch.einsum("ah,nhw,rw->nar", azimuth, power, range_).numpy()
    return np.asarray(np.log10(banded.reshape(len(centred), -1) + 1e-8))


def _band_matrix(frequency: NDArray[Any], weight: NDArray[np.float64]) -> torch.Tensor:
    """float64 ``[6, K]``: averages K frequencies into bands; a band that no frequency falls into is 0."""
    band = np.clip(np.searchsorted(BANDS, frequency, side="right") - 1, 0, len(BANDS) - 2)
    matrix = (band[None] == np.arange(len(BANDS) - 1)[:, None]) * weight[None]
    total = matrix.sum(axis=1, keepdims=True)
    return torch.from_numpy(matrix / np.where(total > 0, total, 1.0))
