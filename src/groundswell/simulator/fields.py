"""Random textures for scenes: Gaussian fields with a given spectrum, jittered cells, and the scene's own state.

Lengths in metres; x is ground range (columns), y azimuth (rows), both 0 at the centre of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from groundswell import rng


@dataclass(frozen=True)
class Mesh:
    """A square grid of N points, ``spacing`` metres apart, centred on 0."""

    size: int
    spacing: float
    device: torch.device

    @property
    def x(self) -> Tensor:
        """float32 [1, 1, N]: ground range of the columns, m."""
        return self._axis()[None, None, :]

    @property
    def y(self) -> Tensor:
        """float32 [1, N, 1]: azimuth of the rows, m."""
        return self._axis()[None, :, None]

    def _axis(self) -> Tensor:
        return (torch.arange(self.size, device=self.device, dtype=torch.float32) - 0.5 * (self.size - 1)) * self.spacing


@dataclass
class Fields:
    """The state of B scenes that every phenomenon adds to: this is what makes them composable.

    Attributes
    ----------
    coarse, fine : Mesh
        Grids of the wind (n points) and of everything sharper (N points).
    incidence_deg : float32 [B]
    wind_speed : float32 [B]
        Of the background, m/s.
    wind_angle : float32 [B]
        Where the wind blows to, radians in the image frame.
    wind_x, wind_y : float32 [B, n, n]
        m/s.
    offset_db : float32 [B, N, N]
        Added to the sigma0 of the sea, dB.
    damping : float32 [B, N, N]
        Factor on the wave modulation and orbital velocity.
    cover, cover_db : float32 [B, N, N]
        Share of each cell that is ice, and its sigma0 in dB.
    slick, ice, front : bool [B, N, N]
        Masks of the truth.
    """

    coarse: Mesh
    fine: Mesh
    incidence_deg: Tensor
    wind_speed: Tensor
    wind_angle: Tensor
    wind_x: Tensor
    wind_y: Tensor
    offset_db: Tensor
    damping: Tensor
    cover: Tensor
    cover_db: Tensor
    slick: Tensor
    ice: Tensor
    front: Tensor

    PER_SCENE = (
        "incidence_deg", "wind_speed", "wind_angle", "wind_x", "wind_y", "offset_db", "damping", "cover", "cover_db",
        "slick", "ice", "front",
    )  # fmt: skip

    def take(self, rows: Tensor) -> Fields:
        """The scenes at ``rows`` (int64 [b]) as a copy."""
        return Fields(self.coarse, self.fine, **{name: getattr(self, name)[rows] for name in self.PER_SCENE})

    def put(self, rows: Tensor, part: Fields) -> None:
        """Write scenes taken by `take` back."""
        for name in self.PER_SCENE:
            getattr(self, name)[rows] = getattr(part, name)

    def along_wind(self, mesh: Mesh, turn: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Coordinates (m) ``[B, size, size]`` along and across the wind direction turned by ``turn`` (rad) ``[B]``."""
        angle = self.wind_angle + turn
        return rotate(mesh, angle)


def rotate(mesh: Mesh, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (m) ``[B, size, size]`` along and across a direction ``angle`` (rad) ``[B]``."""
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    return cos * mesh.x + sin * mesh.y, cos * mesh.y - sin * mesh.x


def draw(keys: Tensor, name: str, low: float, high: float) -> Tensor:
    """float32 [B, 1, 1], uniform in ``[low, high)``: one number per scene, shaped to meet fields."""
    return rng.uniform(keys, name, 1, low, high)[:, :, None]


def white(keys: Tensor, name: str, *shape: int, device: torch.device) -> Tensor:
    """Standard normal float32 ``[B, *shape]``, each scene from its own generator.

    Drawn on the CPU whatever the device, so that one seed is one scene on every machine.
    """
    out = torch.empty(len(keys), *shape)
    for i, key in enumerate(keys.tolist()):
        torch.randn(*shape, generator=rng.generator(key, name), out=out[i])
    return out.to(device)


@lru_cache(maxsize=8)
def _wavenumbers(size: int, spacing: float, device: torch.device) -> tuple[Tensor, Tensor]:
    ky = 2.0 * math.pi * torch.fft.fftfreq(size, spacing)[None, :, None]
    kx = 2.0 * math.pi * torch.fft.rfftfreq(size, spacing)[None, None, :]
    return kx.to(device), ky.to(device)


def shaped_noise(keys: Tensor, name: str, mesh: Mesh, gain: Tensor) -> Tensor:
    """Gaussian field ``[B, size, size]`` of mean 0 and variance 1 with amplitude spectrum ``gain`` (see `wavenumbers`).

    ``gain`` is ``[B or 1, size, size / 2 + 1]``; its value at zero wavenumber is ignored.
    """
    spectrum = torch.fft.rfft2(white(keys, name, mesh.size, mesh.size, device=mesh.device)) * gain
    spectrum[:, 0, 0] = 0
    field: Tensor = torch.fft.irfft2(spectrum, s=(mesh.size, mesh.size))
    return field / field.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)


def wavenumbers(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """kx ``[1, 1, M]`` and ky ``[1, size, 1]`` (rad/m) of the half plane kx >= 0."""
    return _wavenumbers(mesh.size, mesh.spacing, mesh.device)


def power_law(keys: Tensor, name: str, mesh: Mesh, slope: float, longest: float, shortest: float = 0.0) -> Tensor:
    """Field ``[B, size, size]`` of variance 1 whose 2-D power falls as k^slope between two wavelengths (m).

    Longer waves than ``longest`` are flat in power, shorter ones than ``shortest`` are cut off smoothly.
    """
    kx, ky = wavenumbers(mesh)
    k2 = kx.square() + ky.square()
    floor = (2.0 * math.pi / longest) ** 2
    gain = (k2 + floor) ** (slope / 4.0)
    if shortest:
        gain = gain * torch.exp(-k2 / (2.0 * math.pi / shortest) ** 2)
    return shaped_noise(keys, name, mesh, gain)


def resample(field: Tensor, size: int) -> Tensor:
    """``[B, n, n]`` to ``[B, size, size]`` over the same area, bilinear."""
    if field.shape[-1] == size:
        return field
    grown = torch.nn.functional.interpolate(field[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return grown[:, 0]


def sample(field: Tensor, x: Tensor, y: Tensor, mesh: Mesh) -> Tensor:
    """``field`` ``[B, C, size, size]`` at positions ``x, y`` (m) ``[B, h, w]``, bilinear: ``[B, C, h, w]``."""
    half = 0.5 * mesh.size * mesh.spacing
    at = torch.stack([x / half, y / half], dim=-1)
    return torch.nn.functional.grid_sample(field, at, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass
class Cells:
    """The two nearest of a set of scattered centres, at every point ``[B, h, w]``.

    Attributes
    ----------
    dx, dy : float32
        From the nearest centre to the point, m.
    nearest : float32
        Distance to the nearest centre, m.
    edge : float32
        Distance to the border with the neighbouring cell (perpendicular bisector), m.
    identity : float32 in [0, 1)
        A random number of the nearest cell.
    pair : float32 in [0, 1)
        A random number of the border: the same from both sides.
    """

    dx: Tensor
    dy: Tensor
    nearest: Tensor
    edge: Tensor
    identity: Tensor
    pair: Tensor


def cells(keys: Tensor, name: str, x: Tensor, y: Tensor, cell: Tensor) -> Cells:
    """Cells around jittered centres, one in each square of side ``cell`` (m) ``[B, 1, 1]``, at points ``x, y`` (m).

    The centres of the 3 x 3 squares about a point suffice (Worley 1996): cost does not grow with the number of cells.
    """
    table = 64  # the pattern repeats after 64 cells: further than any scene reaches
    numbers = torch.stack([rng.uniform(keys, f"{name}/{part}", table * table) for part in ("x", "y", "id")], dim=1)
    numbers = numbers.to(x.device)
    column, row = torch.floor(x / cell), torch.floor(y / cell)
    shape = column.shape
    first = torch.full(shape, math.inf, device=x.device)
    second = first.clone()
    best = [torch.zeros(shape, device=x.device) for _ in range(3)]
    other = [torch.zeros(shape, device=x.device) for _ in range(3)]
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            index = (row.long() + j) % table * table + (column.long() + i) % table
            jitter = numbers.gather(2, index.view(len(keys), 1, -1).expand(-1, 3, -1)).view(len(keys), 3, *shape[1:])
            here = [
                x - (column + i + 0.1 + 0.8 * jitter[:, 0]) * cell,
                y - (row + j + 0.1 + 0.8 * jitter[:, 1]) * cell,
                jitter[:, 2],
            ]
            distance = here[0].square() + here[1].square()
            nearer = distance < first
            between = ~nearer & (distance < second)
            other = [
                torch.where(nearer, b, torch.where(between, h, o)) for b, h, o in zip(best, here, other, strict=True)
            ]
            best = [torch.where(nearer, h, b) for h, b in zip(here, best, strict=True)]
            second = torch.where(nearer, first, torch.where(between, distance, second))
            first = torch.where(nearer, distance, first)
    apart = torch.hypot(best[0] - other[0], best[1] - other[1]).clamp(min=1.0)
    pair = (best[2] + other[2]) * 7.0
    return Cells(
        dx=best[0],
        dy=best[1],
        nearest=first.sqrt(),
        edge=(second - first) / (2.0 * apart),
        identity=best[2],
        pair=pair - torch.floor(pair),
    )
