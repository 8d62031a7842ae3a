"""How a radar sees the sea: modulation by waves, velocity bunching, blur, speckle and noise.

Frame as in `spectra`: x ground range (columns), y azimuth (rows). Sources: Hasselmann and Hasselmann (1991), J.
Geophys. Res. 96(C6), transfer functions; Alpers and Rufenach (1979), velocity bunching.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundswell.simulator.spectra import RELAXATION, WaveGrid


def slope_gain(incidence_deg: Tensor) -> Tensor:
    """Change of log intensity per unit of range slope ``[...]``: tilt (VV) plus range bunching.

    Tilt 4 cot(theta) / (1 + sin^2 theta), Hasselmann and Hasselmann (1991). Bunching cot(theta): slopes that face the
    radar are foreshortened, so both have one sign.
    """
    theta = torch.deg2rad(incidence_deg)
    cot = 1.0 / torch.tan(theta)
    gain: Tensor = 4.0 * cot / (1.0 + torch.sin(theta).square()) + cot
    return gain


def modulation(total: Tensor, difference: Tensor, grid: WaveGrid, incidence_deg: Tensor) -> Tensor:
    """Log-intensity modulation by resolved waves: tilt, range bunching and hydrodynamic; float32 ``[B, N, N]``.

    ``total`` and ``difference`` are complex64 ``[B, N, M]`` from `spectra.amplitudes`; ``incidence_deg`` is ``[B]``.
    Hydrodynamic: 4.5 k w (w - i mu) / (w^2 + mu^2) (kx/k)^2, Alpers and Hasselmann (1978).
    """
    gain = slope_gain(incidence_deg)[:, None, None]
    transfer = torch.complex((grid.hydro * grid.omega).expand(len(gain), -1, -1), gain * grid.kx)
    spectrum = total * transfer
    spectrum += difference * (-1j * RELAXATION) * grid.hydro
    out: Tensor = torch.fft.irfft2(spectrum, s=(grid.size, grid.size), norm="forward")
    return out


def approach_velocity(difference: Tensor, grid: WaveGrid, incidence_deg: Tensor) -> Tensor:
    """Orbital velocity towards the radar (m/s) of resolved waves, float32 ``[B, N, N]``.

    Transfer -w (sin(theta) kx/k + i cos(theta)) (deep water).
    """
    theta = torch.deg2rad(incidence_deg)[:, None, None]
    transfer = torch.complex(-torch.sin(theta) * (grid.omega * grid.cos_x), -torch.cos(theta) * grid.omega)
    out: Tensor = torch.fft.irfft2(difference * transfer, s=(grid.size, grid.size), norm="forward")
    return out


def splat(intensity: Tensor, shift: Tensor) -> Tensor:
    """Move intensity along azimuth: every cell is dropped at its row + ``shift``, shared by the two nearest rows.

    Parameters
    ----------
    intensity, shift : float32 [B, N, N]
        ``shift`` in rows; the azimuth axis wraps.

    Returns
    -------
    float32 [B, N, N], whose sum over each column equals that of ``intensity``. Deterministic on any device: on a GPU
    the sum runs in integers, where the order of additions does not matter.
    """
    batch, rows, columns = intensity.shape
    target = torch.arange(rows, device=shift.device, dtype=shift.dtype)[:, None] + shift
    floor = torch.floor(target)
    upper_share = (target - floor) * intensity
    lower_share = intensity - upper_share
    row = floor.to(torch.int32).remainder_(rows)
    start = torch.arange(batch, device=shift.device, dtype=torch.int32)[:, None, None] * (
        rows * columns
    ) + torch.arange(columns, device=shift.device, dtype=torch.int32)
    lower = (row * columns).add_(start)
    upper = torch.where(row == rows - 1, lower - (rows - 1) * columns, lower + columns)
    add = _add_up if intensity.device.type == "cpu" else add_up_in_integers
    return add(lower.view(-1), lower_share.reshape(-1), upper.view(-1), upper_share.reshape(-1)).view_as(intensity)


def _add_up(lower: Tensor, lower_share: Tensor, upper: Tensor, upper_share: Tensor) -> Tensor:
    """float32 ``[n]``: both shares ``[n]`` summed at their places ``[n]``, one after the other."""
    out = torch.zeros_like(lower_share)
    out.index_add_(0, lower, lower_share)
    return out.index_add_(0, upper, upper_share)


def add_up_in_integers(lower: Tensor, lower_share: Tensor, upper: Tensor, upper_share: Tensor) -> Tensor:
    """As `_add_up`, whatever the order of additions: in units of 2^-40, with room up to 8e6."""
    unit = 2.0**40
    fixed = torch.zeros(lower_share.shape, dtype=torch.int64, device=lower_share.device)
    fixed.index_add_(0, lower, (lower_share.double() * unit).round().long())
    fixed.index_add_(0, upper, (upper_share.double() * unit).round().long())
    return (fixed.double() / unit).to(lower_share.dtype)


def azimuth_blur(intensity: Tensor, width: Tensor) -> Tensor:
    """Convolve each column with a Gaussian of standard deviation ``width`` (rows) ``[B]``; azimuth wraps.

    What unresolved waves do to the image: the spectrum falls by exp(-(k_y beta sigma)^2 / 2).
    """
    rows = intensity.shape[1]
    k = 2.0 * math.pi * torch.fft.rfftfreq(rows, device=intensity.device)
    gain = torch.exp(-0.5 * (k * width[:, None]).square())[:, :, None]
    out: Tensor = torch.fft.irfft(torch.fft.rfft(intensity, dim=1) * gain, n=rows, dim=1)
    return out


NEIGHBOUR_CORRELATION = 0.025
"""Of speckle between pixels of 50 m, from the Hamming-weighted impulse response and a 50 m box."""


def _taps() -> tuple[float, float]:
    """Weights (outer, inner) of the 4-tap mean over 2 x 50 m that gives `NEIGHBOUR_CORRELATION`; they sum to 1/2."""
    c = NEIGHBOUR_CORRELATION
    ratio = (1.0 - math.sqrt(1.0 - 4.0 * c * c)) / (2.0 * c)  # solves r / (1 + r^2) = c
    return 0.5 * ratio / (1.0 + ratio), 0.5 / (1.0 + ratio)


def halve(image: Tensor) -> Tensor:
    """Mean over 2 x 2 cells with a slight overlap: ``[B, 2n + 2, 2m + 2]`` (one cell of margin) to ``[B, n, m]``."""
    outer, inner = _taps()
    rows = inner * (image[:, 1:-1:2] + image[:, 2:-1:2]) + outer * (image[:, 0:-3:2] + image[:, 3::2])
    return inner * (rows[..., 1:-1:2] + rows[..., 2:-1:2]) + outer * (rows[..., 0:-3:2] + rows[..., 3::2])


def looks_before_halving(looks: Tensor) -> Tensor:
    """Looks of the fine cells whose `halve` mean has ``looks``."""
    outer, inner = _taps()
    return looks * (2.0 * (outer**2 + inner**2)) ** 2


def speckle(noise: Tensor, looks: Tensor) -> Tensor:
    """Multiplicative speckle of mean 1 and variance 1/looks, from standard normal ``noise`` ``[B, H, W]``.

    The cube of a normal variable (Wilson and Hilferty 1931): for 15 looks and more its first three moments are those
    of a gamma variable to 1e-3, at a tenth of the cost. ``looks`` is ``[B]``.
    """
    spread = (1.0 / (9.0 * looks))[:, None, None]
    cube = noise * spread.sqrt() + (1.0 - spread)
    return cube * cube * cube
