"""One SAFE image on square ground cells, whole or cut into chips that overlap, each with its own place.

A scene is too large to be read whole for every chip, and compressed ones can only be read from the beginning: one
band of lines, as tall as a chip, is averaged at a time and cut into all its chips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.physics.footprint import footprint
from groundswell.physics.multilook import Filter, ground_edges
from groundswell.products.safe.scene import Scene
from groundswell.products.source import chip_starts

_SLACK = 1.0 + 1e-12  # as in `multilook.weights`: a length that is a whole number of cells, but for rounding


@dataclass(frozen=True, slots=True)
class Tile:
    """A chip of a scene: its place among the chips, its first row and column and its size, in cells."""

    index: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """``r<row>c<col>``, padded with zeros so that chips sort as they lie."""
        return f"r{self.index[0]:03d}c{self.index[1]:03d}"


@dataclass(frozen=True, slots=True)
class Cells:
    """Square ground cells of a part of an image.

    Attributes
    ----------
    values : float32 [C, H, W]
        sigma0, or mean |DN|^2 where it is not calibrated; NaN where less than half of the cell is valid.
    valid : float32 [C, H, W]
        Share of each cell with data.
    nesz : float32 [C, H, W]
        Linear, NaN where unknown.
    lon, lat, incidence : [H, W]
        Degrees.
    lines, pixels : float64 [H], [W]
        Native positions of the centres.
    denoised : bool
    """

    values: NDArray[np.float32]
    valid: NDArray[np.float32]
    nesz: NDArray[np.float32]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    incidence: NDArray[np.float32]
    lines: NDArray[np.float64]
    pixels: NDArray[np.float64]
    denoised: bool

    def part(self, rows: slice, columns: slice) -> Cells:
        """Some rows and columns."""
        both = (slice(None), rows, columns)
        return Cells(
            values=self.values[both],
            valid=self.valid[both],
            nesz=self.nesz[both],
            lon=self.lon[rows, columns],
            lat=self.lat[rows, columns],
            incidence=self.incidence[rows, columns],
            lines=self.lines[rows],
            pixels=self.pixels[columns],
            denoised=self.denoised,
        )

    def footprint(self, scene: Scene) -> bytes:
        """The outline of the cells as WKB."""
        lon, lat = scene.geolocation.lonlat(_edges(self.lines), _edges(self.pixels))
        return footprint([(float(lon[c]), float(lat[c])) for c in ((0, 0), (0, 1), (1, 1), (1, 0))])


def _edges(centres: NDArray[np.float64]) -> tuple[float, float]:
    """The outer edges of a row of cells, half a cell beyond the first and the last centre."""
    if len(centres) == 1:
        return float(centres[0]), float(centres[0])
    return float(1.5 * centres[0] - 0.5 * centres[1]), float(1.5 * centres[-1] - 0.5 * centres[-2])


def tiles(scene: Scene, spacing_m: float, size: tuple[int, int], overlap: int) -> list[Tile]:
    """The chips of a scene, row by row; neighbours share ``overlap`` cells.

    The last row and column of chips end where the scene ends, so that they may share more. A scene smaller than a
    chip is one chip of its own size.
    """
    whole = cell_counts(scene, spacing_m)
    down, across = (chip_starts(max(n, s), s, overlap) for n, s in zip(whole, size, strict=True))
    fitted = (min(size[0], whole[0]), min(size[1], whole[1]))
    return [Tile((i, j), (y, x), fitted) for i, y in enumerate(down) for j, x in enumerate(across)]


def cell_counts(scene: Scene, spacing_m: float) -> tuple[int, int]:
    """How many whole cells an image has along azimuth and along range."""
    a = scene.annotation
    width = a.samples * a.range_spacing_m
    if a.slant:
        width = float(ground_edges(scene.geolocation.profile(np.arange(a.samples)), a.range_spacing_m)[-1])
    return math.floor(a.lines * a.azimuth_spacing_m / spacing_m * _SLACK), math.floor(width / spacing_m * _SLACK)


def read_cells(
    scene: Scene,
    polarisations: list[str],
    spacing_m: float,
    calibration: str | None,
    denoise: bool,
    filter: Filter,
    rows: tuple[int, int] | None = None,
) -> Cells:
    """All columns of an image, and all its rows or ``(first, count)`` of them.

    Raises
    ------
    ProductError
        When a file is missing or damaged.
    """
    lines, drop = None, 0
    if rows is not None:
        a, each = scene.annotation, spacing_m / scene.annotation.azimuth_spacing_m
        # The window of the antialias filter reaches into the neighbouring cells.
        drop = min(rows[0], 1) if filter == "kaiser" else 0
        first = math.floor((rows[0] - drop) * each)
        lines = slice(first, min(a.lines, first + math.ceil((rows[1] + drop + (filter == "kaiser")) * each) + 1))
    data = scene.to_dataset(spacing_m, calibration, denoise, filter, polarisations=polarisations, lines=lines).isel(
        azimuth=slice(drop, None if rows is None else drop + rows[1])
    )
    arrays: dict[str, Any] = {str(name): data[name].to_numpy() for name in data.variables}
    valid = arrays["valid"]
    return Cells(
        values=np.where(valid >= 0.5, arrays["intensity" if calibration is None else calibration], np.float32(np.nan)),
        valid=valid,
        nesz=arrays.get("nesz", np.full_like(valid, np.nan)),  # of calibrated values alone
        lon=arrays["lon"],
        lat=arrays["lat"],
        incidence=arrays["incidence"],
        lines=arrays["line"],
        pixels=arrays["pixel"],
        denoised=bool(data.attrs["denoised"]),
    )
