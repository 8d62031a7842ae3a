"""The sea as a directional spectrum: JONSWAP systems, random Fourier amplitudes, orbital velocities.

Image frame: x is ground range (columns, away from the radar), y is azimuth (rows, along the flight). Directions are
angles from +x, counter-clockwise towards +y, in radians, and say where waves go to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

GRAVITY = 9.81
_RADIAL_BINS = 4096
_ANGULAR_BINS = 2048
_OMEGA = (0.15, 12.0)  # rad/s: from waves of 2.7 km to waves of 0.4 m


@dataclass(frozen=True)
class WaveSystems:
    """S wave systems for each of B scenes: column 0 is the wind sea, the others are swell.

    Attributes
    ----------
    hs : float32 [B, S]
        Significant wave height, m; 0 where there is no such system.
    tp : float32 [B, S]
        Peak period, s.
    gamma : float32 [B, S]
        Peak enhancement of JONSWAP.
    direction : float32 [B, S]
        Where the waves go to, radians in the image frame.
    spreading : float32 [B, S]
        The exponent s of cos^2s(D/2).
    """

    hs: Tensor
    tp: Tensor
    gamma: Tensor
    direction: Tensor
    spreading: Tensor

    def total_hs(self) -> Tensor:
        """float32 [B]: significant wave height (m) of all systems together, from the spectrum."""
        return self.hs.square().sum(1).sqrt()

    def dominant(self) -> Tensor:
        """int64 [B]: the system with the highest spectral peak (peak density goes with Hs^2 Tp)."""
        return (self.hs.square() * self.tp).argmax(1)


def jonswap_shape(omega: Tensor, tp: Tensor, gamma: Tensor) -> Tensor:
    """JONSWAP frequency spectrum ``[..., F]`` of any height at ``omega`` (rad/s) ``[F]``; Hasselmann et al. (1973).

    ``tp`` (s) and ``gamma`` are ``[...]``.
    """
    peak = 2.0 * math.pi / tp[..., None]
    ratio = omega / peak
    sigma = torch.where(ratio <= 1.0, 0.07, 0.09)
    bump = torch.exp(-0.5 * ((ratio - 1.0) / sigma).square())
    return omega**-5 * torch.exp(-1.25 * ratio**-4) * gamma[..., None] ** bump


def frequency_spectrum(systems: WaveSystems) -> tuple[Tensor, Tensor]:
    """Frequencies (rad/s) ``[F]``, logarithmically spaced, and spectra ``[B, S, F]`` (m^2 s) that hold Hs exactly."""
    low, high = math.log(_OMEGA[0]), math.log(_OMEGA[1])
    omega = torch.exp(torch.linspace(low, high, 1024, dtype=torch.float64, device=systems.hs.device))
    shape = jonswap_shape(omega, systems.tp.double(), systems.gamma.double())
    m0 = torch.trapezoid(shape, omega, dim=-1)
    return omega, shape * (systems.hs.double().square() / 16.0 / m0)[..., None]


def spreading_function(delta: Tensor, s: Tensor) -> Tensor:
    """cos^2s(delta / 2), normalised to integrate to 1 over the circle; Longuet-Higgins, Cartwright and Smith (1963)."""
    log_norm = torch.lgamma(s + 1.0) - torch.lgamma(s + 0.5) - math.log(2.0 * math.sqrt(math.pi))
    half = torch.cos(0.5 * delta).square().clamp(min=1e-30)
    return torch.exp(log_norm + s * torch.log(half))


@dataclass(frozen=True)
class WaveGrid:
    """Wavenumbers of an N x N periodic grid, half plane kx >= 0 (as `torch.fft.rfft2` orders it), M = N/2 + 1.

    Attributes
    ----------
    size, spacing : int, float
        N, and metres between grid points.
    kx, ky, k, omega : float32 [N, M]
        rad/m and rad/s (deep water).
    cos_x : float32 [N, M]
        kx / k.
    hydro : float32 [N, M]
        4.5 k omega (kx/k)^2 / (omega^2 + mu^2), to be multiplied by omega (in phase) and -mu (in quadrature).
    radial, angular : int64 [N M]
        Bins of k and of the direction of (kx, ky) in the tables of a spectrum.
    weight : float32 [N, M]
        1 where the wave is resolved, sqrt(2) in the column kx = 0 (see `amplitudes`), 0 elsewhere.
    """

    size: int
    spacing: float
    kx: Tensor
    ky: Tensor
    k: Tensor
    omega: Tensor
    cos_x: Tensor
    hydro: Tensor
    radial: Tensor
    angular: Tensor
    weight: Tensor

    @property
    def k_max(self) -> float:
        """Largest resolved wavenumber, rad/m: waves of two grid steps."""
        return math.pi / self.spacing


RELAXATION = 0.5
"""mu of the hydrodynamic modulation, 1/s (Alpers and Hasselmann 1978; Hasselmann and Hasselmann 1991)."""


@lru_cache(maxsize=8)
def wave_grid(size: int, spacing: float, device: torch.device) -> WaveGrid:
    """The grid of wavenumbers for ``size`` points of ``spacing`` metres; built once, shared by every batch."""
    ky = 2.0 * math.pi * torch.fft.fftfreq(size, spacing, dtype=torch.float64)[:, None]
    kx = 2.0 * math.pi * torch.fft.rfftfreq(size, spacing, dtype=torch.float64)[None]
    ky, kx = (t.expand(size, size // 2 + 1) for t in (ky, kx))
    k = torch.hypot(kx, ky)
    safe = k.clamp(min=1e-9)
    omega = torch.sqrt(GRAVITY * safe)
    resolved = (k > 0) & (k <= math.pi / spacing) & (omega >= _OMEGA[0])
    weight = resolved.double()
    weight[:, 0] *= math.sqrt(2.0)
    hydro = 4.5 * k * omega * (kx / safe).square() / (omega.square() + RELAXATION**2)
    low, high = math.log(_OMEGA[0]), math.log(_OMEGA[1])
    radial = ((torch.log(omega) - low) / (high - low) * (_RADIAL_BINS - 1)).round().clamp(0, _RADIAL_BINS - 1)
    angular = (torch.atan2(ky, kx) / (2.0 * math.pi) * _ANGULAR_BINS).round() % _ANGULAR_BINS

    def real(t: Tensor) -> Tensor:
        return t.to(torch.float32).contiguous().to(device)

    return WaveGrid(
        size=size,
        spacing=spacing,
        kx=real(kx),
        ky=real(ky),
        k=real(k),
        omega=real(omega),
        cos_x=real(kx / safe),
        hydro=real(hydro),
        radial=radial.long().flatten().to(device),
        angular=angular.long().flatten().to(device),
        weight=real(weight),
    )


def directional_density(systems: WaveSystems, grid: WaveGrid) -> tuple[Tensor, Tensor]:
    """E(k) and E(-k) (m^4) on the half plane, each float32 ``[B, N, M]``.

    E(k) = S(omega) D(direction) (d omega / d k) / k with omega^2 = g k. Frequency and direction are looked up in
    tables of 4096 (logarithmic) and 2048 bins, 20 times cheaper than powers and exponentials at every grid point.
    """
    device = grid.k.device
    omega = torch.exp(torch.linspace(math.log(_OMEGA[0]), math.log(_OMEGA[1]), _RADIAL_BINS, dtype=torch.float64))
    frequencies, spectra = frequency_spectrum(systems)
    step = (math.log(_OMEGA[1]) - math.log(_OMEGA[0])) / (len(frequencies) - 1)
    position = ((torch.log(omega) - math.log(_OMEGA[0])) / step).clamp(0, len(frequencies) - 1.001).to(device)
    lower = position.floor().long()
    fraction = position - lower
    density = spectra[..., lower] * (1 - fraction) + spectra[..., lower + 1] * fraction
    k = omega.to(device).square() / GRAVITY
    radial = (density * GRAVITY / (2.0 * omega.to(device)) / k).float()  # [B, S, bins]
    angle = torch.arange(_ANGULAR_BINS, device=device) * (2.0 * math.pi / _ANGULAR_BINS)
    angular = spreading_function(angle - systems.direction[..., None], systems.spreading[..., None])
    opposite = angular.roll(_ANGULAR_BINS // 2, dims=-1)
    batch, count = systems.hs.shape
    shape = (batch, grid.size, grid.size // 2 + 1)
    forward = torch.zeros(shape, device=device).view(batch, -1)
    backward = torch.zeros_like(forward)
    for s in range(count):
        along_k = radial[:, s].index_select(1, grid.radial)
        forward.addcmul_(along_k, angular[:, s].index_select(1, grid.angular))
        backward.addcmul_(along_k, opposite[:, s].index_select(1, grid.angular))
    return forward.view(shape), backward.view(shape)


def amplitudes(systems: WaveSystems, grid: WaveGrid, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Random Fourier amplitudes of the surface at one instant.

    Waves to k and to -k share a place on the half plane: with P the amplitude of k and Q the conjugate amplitude of
    -k, quantities in phase with elevation use P + Q, those that change sign with the direction of travel use P - Q.

    Parameters
    ----------
    noise : float32 [B, 2, 2, N, M]
        Standard normal: real and imaginary parts for k and for -k.

    Returns
    -------
    total, difference : complex64 [B, N, M]
        P + Q and P - Q, scaled so that ``irfft2(total, norm="forward")`` is the elevation in metres.
    """
    forward, backward = directional_density(systems, grid)
    cell = 2.0 * math.pi / (grid.size * grid.spacing)
    # E|a|^2 = 2 E(k) dk^2 for elevation = Re sum a exp(ikx); half of it for each of the two places of a real
    # transform, and each of the two normal numbers of a complex one. In the column kx = 0 both signs of ky are
    # stored and the transform keeps the real part only: half the variance, hence sqrt(2) in the weight.
    scale = 0.5 * cell * grid.weight
    p = torch.complex(noise[:, 0, 0], noise[:, 0, 1]).mul_(forward.sqrt_().mul_(scale))
    q = torch.complex(noise[:, 1, 0], noise[:, 1, 1]).mul_(backward.sqrt_().mul_(scale))
    return p + q, p - q


def radial_velocity_variance(systems: WaveSystems, incidence_deg: Tensor, k_min: float = 0.0) -> Tensor:
    """Variance (m^2/s^2) ``[B]`` of the orbital velocity along the line of sight, of waves beyond ``k_min`` (rad/m).

    ``incidence_deg`` is ``[B]``. From w^2 (sin^2 theta cos^2 phi + cos^2 theta) S(w) D(phi).
    """
    omega, spectra = frequency_spectrum(systems)
    beyond = omega.square() / GRAVITY > k_min
    m2 = torch.trapezoid(spectra * omega.square() * beyond, omega, dim=-1)
    angle = torch.arange(360, device=omega.device, dtype=torch.float64) * (math.pi / 180.0)
    spread = spreading_function(angle - systems.direction.double()[..., None], systems.spreading.double()[..., None])
    cos2 = (spread * torch.cos(angle).square()).mean(-1) * 2.0 * math.pi
    theta = torch.deg2rad(incidence_deg.double())[:, None]
    return (m2 * (torch.sin(theta).square() * cos2 + torch.cos(theta).square())).sum(1).float()
