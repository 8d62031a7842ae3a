"""The laws behind a written product: orbit, incidence, look-up tables and noise at any (line, pixel), in closed form.

The Earth is a sphere that does not turn and the orbit a circle, so that every quantity has a formula; the radii are
those of `groundswell.physics.geometry`. Look-up tables follow polynomials that bilinear interpolation reproduces.
`Geometry` and `Truth` are what a reader of the written product must find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.errors import UsageError
from groundswell.physics.geometry import EARTH_RADIUS_M, ORBIT_HEIGHT_M, PLATFORM_VELOCITY_M_S

Array = NDArray[np.float64]
Field = float | NDArray[np.floating] | Callable[[Array, Array], Array]
"""sigma0, linear: one number, an array [lines, samples], or a function of ground metres (azimuth [lines, 1] from the
first line's early edge, range [1, samples] from the first sample's near edge)."""

ORBIT_RADIUS_M = EARTH_RADIUS_M + ORBIT_HEIGHT_M
ANGULAR_VELOCITY = PLATFORM_VELOCITY_M_S / ORBIT_RADIUS_M


@dataclass(frozen=True, slots=True)
class Track:
    """The orbit: where its nadir is when the product starts (degrees), and which way it flies (degrees from north)."""

    lon_deg: float = -34.0
    lat_deg: float = 36.0
    heading_deg: float = 193.0

    def frame(self, seconds: float) -> Array:
        """Unit vectors up, forward, right [3, xyz] of the Earth-fixed frame, ``seconds`` after the start."""
        lon, lat, heading = np.deg2rad((self.lon_deg, self.lat_deg, self.heading_deg))
        up = np.array((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)))
        north = np.array((-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)))
        east = np.array((-np.sin(lon), np.cos(lon), 0.0))
        forward = np.cos(heading) * north + np.sin(heading) * east
        turn = ANGULAR_VELOCITY * seconds
        return np.stack(
            (
                np.cos(turn) * up + np.sin(turn) * forward,
                np.cos(turn) * forward - np.sin(turn) * up,
                np.cross(forward, up),
            )
        )

    def heading(self, seconds: float) -> float:
        """Direction of flight at the nadir, degrees from north in (-180, 180]."""
        up, forward, _ = self.frame(seconds)
        east = np.array((-up[1], up[0], 0.0))
        return float(np.rad2deg(np.arctan2(forward @ east, forward[2])))  # both shortened alike by cos(latitude)


@dataclass(frozen=True, slots=True)
class Bilinear:
    """``level (1 + per_line line + per_pixel pixel + per_both line pixel)``, which bilinear interpolation keeps."""

    level: float
    per_line: float = 0.0
    per_pixel: float = 0.0
    per_both: float = 0.0

    def __call__(self, line: ArrayLike, pixel: ArrayLike) -> Array:
        """Value at (line, pixel), broadcast."""
        y, x = np.asarray(line, np.float64), np.asarray(pixel, np.float64)
        return np.asarray(self.level * (1.0 + self.per_line * y + self.per_pixel * x + self.per_both * y * x))


@dataclass(frozen=True, slots=True)
class Vectors:
    """Where a look-up table is sampled: its lines, and the pixels of each (ragged where they differ)."""

    lines: tuple[int, ...]
    pixels: tuple[tuple[int, ...], ...]

    @staticmethod
    def regular(lines: ArrayLike, samples: int, step: int = 40) -> Vectors:
        """Every ``step`` pixels at the given ``lines``, the last pixel irregular as in real products."""
        pixels = (*range(0, samples - 1, step), samples - 1)
        rows = tuple(int(line) for line in np.atleast_1d(np.asarray(lines)))
        return Vectors(rows, (pixels,) * len(rows))

    def interpolated(self, law: Bilinear, line: ArrayLike, pixel: ArrayLike) -> Array:
        """``law`` as a right interpolation of its samples gives it: each vector and the list of lines clamped."""
        y, x = np.asarray(line, np.float64), np.asarray(pixel, np.float64)
        at = np.asarray(self.lines, np.float64)
        y = np.clip(y, at[0], at[-1])
        low = np.clip(np.searchsorted(at, y, side="right") - 1, 0, max(len(at) - 2, 0))
        high = np.minimum(low + 1, len(at) - 1)
        ends = np.array([(p[0], p[-1]) for p in self.pixels], np.float64)
        value = [law(at[k], np.clip(x, ends[k, 0], ends[k, 1])) for k in (low, high)]
        weight = np.where(high > low, (y - at[low]) / np.where(high > low, at[high] - at[low], 1.0), 0.0)
        return np.asarray(value[0] * (1.0 - weight) + value[1] * weight)


@dataclass(frozen=True, slots=True)
class AzimuthBlock:
    """Azimuth noise inside one box (edges inclusive): ``level + slope (line - first line)``; TOPS GRD only."""

    swath: str
    lines: tuple[int, int]
    samples: tuple[int, int]
    level: float = 1.0
    slope: float = 0.0

    def __call__(self, line: ArrayLike) -> Array:
        """Factor on the range noise at a line."""
        return np.asarray(self.level + self.slope * (np.asarray(line, np.float64) - self.lines[0]))


@dataclass(frozen=True, slots=True)
class Geometry:
    """One image on the sphere.

    Attributes
    ----------
    track : Track
    seconds : float
        Time of the first line after the start of the track.
    near_deg : float
        Incidence at the centre of the first sample.
    range_spacing_m, azimuth_spacing_m : float
        Of samples (slant range when ``slant``, else ground range) and of lines (on the ground, at the first sample).
    slant : bool
    """

    track: Track
    seconds: float
    near_deg: float
    range_spacing_m: float
    azimuth_spacing_m: float
    slant: bool
    near_range_m: float = field(init=False)
    near_angle: float = field(init=False)

    def __post_init__(self) -> None:
        theta = np.deg2rad(self.near_deg)
        angle = theta - np.arcsin(EARTH_RADIUS_M / ORBIT_RADIUS_M * np.sin(theta))
        object.__setattr__(self, "near_angle", float(angle))
        object.__setattr__(self, "near_range_m", float(np.sin(angle) * ORBIT_RADIUS_M / np.sin(theta)))

    @property
    def line_interval_s(self) -> float:
        """Time from line to line."""
        return float(self.azimuth_spacing_m / (ANGULAR_VELOCITY * EARTH_RADIUS_M * np.cos(self.near_angle)))

    def earth_angle(self, pixel: ArrayLike) -> Array:
        """Angle (rad) at the Earth's centre between the nadir and a sample (cosine rule)."""
        x = np.asarray(pixel, np.float64)
        if not self.slant:
            return np.asarray(self.near_angle + x * self.range_spacing_m / EARTH_RADIUS_M)
        distance = self.near_range_m + x * self.range_spacing_m
        cos = (ORBIT_RADIUS_M**2 + EARTH_RADIUS_M**2 - distance**2) / (2.0 * ORBIT_RADIUS_M * EARTH_RADIUS_M)
        return np.asarray(np.arccos(cos))

    def slant_range(self, pixel: ArrayLike) -> Array:
        """Distance (m) from the radar to a sample."""
        cos = np.cos(self.earth_angle(pixel))
        squared = ORBIT_RADIUS_M**2 + EARTH_RADIUS_M**2 - 2.0 * ORBIT_RADIUS_M * EARTH_RADIUS_M * cos
        return np.asarray(np.sqrt(squared))

    def incidence(self, pixel: ArrayLike) -> Array:
        """Incidence (degrees) at a sample (law of sines)."""
        angle = self.earth_angle(pixel)
        return np.asarray(np.rad2deg(np.arcsin(ORBIT_RADIUS_M * np.sin(angle) / self.slant_range(pixel))))

    def ground_range(self, pixel: ArrayLike) -> Array:
        """Ground metres from the near edge of the first sample (pixel -0.5)."""
        return np.asarray(EARTH_RADIUS_M * (self.earth_angle(pixel) - self.earth_angle(-0.5)))

    def lonlat(self, line: ArrayLike, pixel: ArrayLike) -> tuple[Array, Array]:
        """Longitude in (-180, 180] and latitude, degrees, at (line, pixel)."""
        y, x = np.broadcast_arrays(np.asarray(line, np.float64), np.asarray(pixel, np.float64))
        turn, angle = ANGULAR_VELOCITY * self.line_interval_s * y, self.earth_angle(x)
        up, forward, right = self.track.frame(self.seconds)
        nadir = np.cos(turn)[..., None] * up + np.sin(turn)[..., None] * forward
        point = np.cos(angle)[..., None] * nadir + np.sin(angle)[..., None] * right
        lat = np.arctan2(point[..., 2], np.hypot(point[..., 0], point[..., 1]))
        return np.rad2deg(np.arctan2(point[..., 1], point[..., 0])), np.rad2deg(lat)


@dataclass(frozen=True, slots=True)
class Truth:
    """What a right reader finds in one polarisation of one image, at any (line, pixel); arguments broadcast.

    Attributes
    ----------
    geometry : Geometry
    field : Field
        The sigma0 that was imaged.
    shape : (lines, samples)
    beta, range_noise : Bilinear
        The laws of betaNought (a factor on amplitude) and of the noise in DN^2.
    calibration_at, noise_at : Vectors
    blocks : tuple of AzimuthBlock
    """

    geometry: Geometry
    field: Field
    shape: tuple[int, int]
    beta: Bilinear
    range_noise: Bilinear
    calibration_at: Vectors
    noise_at: Vectors
    blocks: tuple[AzimuthBlock, ...]

    def gain(self, line: ArrayLike, pixel: ArrayLike, lut: str = "sigmaNought") -> Array:
        """The calibration vector A: ``|DN|^2 / A^2`` is sigma0, beta0 (``betaNought``) or gamma0 (``gamma``).

        The angle's part is exact between the nodes of the table too, where bilinear interpolation leaves 1e-8 to 1e-6.
        """
        theta = np.deg2rad(self.geometry.incidence(pixel))
        beta = self.calibration_at.interpolated(self.beta, line, pixel)
        part = {"sigmaNought": np.sin(theta), "betaNought": np.ones_like(theta), "gamma": np.tan(theta)}[lut]
        return np.asarray(beta / np.sqrt(part))

    def noise(self, line: ArrayLike, pixel: ArrayLike) -> Array:
        """Thermal noise eta in units of DN^2: range part times azimuth part."""
        eta = self.noise_at.interpolated(self.range_noise, line, pixel)
        y, x = np.asarray(line, np.float64), np.asarray(pixel, np.float64)
        for block in self.blocks:
            inside = (block.lines[0] <= y) & (y <= block.lines[1]) & (block.samples[0] <= x) & (x <= block.samples[1])
            eta = np.where(inside, eta * block(y), eta)
        return eta

    def nesz(self, line: ArrayLike, pixel: ArrayLike) -> Array:
        """Noise-equivalent sigma0, linear: ``eta / A^2``."""
        return np.asarray(self.noise(line, pixel) / self.gain(line, pixel) ** 2)

    def sigma0(self, lines: NDArray[np.integer] | None = None) -> Array:
        """The imaged sigma0 [lines, samples] of all lines, or of those given."""
        rows, samples = np.arange(self.shape[0]) if lines is None else lines, self.shape[1]
        if isinstance(self.field, np.ndarray):
            if self.field.shape != self.shape:
                raise UsageError("sigma0 has another shape than its image", why=f"{self.field.shape}, {self.shape}")
            return np.asarray(self.field[rows], np.float64)
        if not callable(self.field):
            return np.full((len(rows), samples), self.field, np.float64)
        azimuth = np.asarray((rows[:, None] + 0.5) * self.geometry.azimuth_spacing_m, np.float64)
        values = self.field(azimuth, self.geometry.ground_range(np.arange(samples)[None, :]))
        return np.broadcast_to(values, (len(rows), samples))


def cells(values: NDArray[np.floating], spacing_m: float) -> Callable[[Array, Array], Array]:
    """A ground field from an imagette ``[rows, columns]`` of square cells: constant in each, edge cells go on for ever.

    Multilooked to the same spacing it comes back, but for the samples that straddle two cells.
    """

    def at(azimuth: Array, ground: Array) -> Array:
        rows, columns = (
            np.clip((metres // spacing_m).astype(np.intp), 0, count - 1)
            for metres, count in zip((azimuth, ground), values.shape, strict=True)
        )
        return np.asarray(values[rows, columns], np.float64)

    return at
