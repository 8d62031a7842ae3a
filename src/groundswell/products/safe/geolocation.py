"""Where the pixels of an image lie, and under which incidence: bilinear on the grid of the annotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.products.interpolation import Floats, hat
from groundswell.products.safe.xml import Document

_REACH = 0.6  # share of a grid cell by which an image may reach beyond its grid


@dataclass(frozen=True)
class Geolocation:
    """The geolocation grid of an image.

    Attributes
    ----------
    lines, pixels : float64 [n], [m]
        Nodes, increasing.
    normals : float64 [n, m, 3]
        Unit vectors of longitude and latitude (x to 0 E, z to the north pole).
    incidence : float64 [n, m]
        Degrees.

    Positions are interpolated as unit vectors, so that neither the date line nor a pole is a special place; against
    the interpolation of longitude and latitude they move by less than 1e-4 degrees below 75 degrees of latitude.
    """

    lines: Floats
    pixels: Floats
    normals: Floats
    incidence: Floats

    def lonlat(self, lines: ArrayLike, pixels: ArrayLike) -> tuple[Floats, Floats]:
        """Longitude (-180 to 180) and latitude, degrees ``[k, w]``, at lines ``[k]`` and pixels ``[w]``."""
        down, across = hat(lines, self.lines, clamp=False), hat(pixels, self.pixels, clamp=False).T
        x, y, z = (down @ self.normals[..., axis] @ across for axis in range(3))
        return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))

    def longitude(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """The longitude of `lonlat`."""
        return self.lonlat(lines, pixels)[0]

    def latitude(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """The latitude of `lonlat`."""
        return self.lonlat(lines, pixels)[1]

    def incidence_at(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """Incidence, degrees ``[k, w]``, at lines ``[k]`` and pixels ``[w]``."""
        return hat(lines, self.lines, clamp=False) @ self.incidence @ hat(pixels, self.pixels, clamp=False).T

    def profile(self, pixels: ArrayLike) -> Floats:
        """Incidence, degrees ``[w]``, along range: a cubic fitted to the whole grid, free of the terrain's steps."""
        x = np.asarray(pixels, dtype=np.float64)
        degree = min(3, len(self.pixels) - 1)
        fit = np.polynomial.Polynomial.fit(self.pixels, self.incidence.mean(axis=0), degree)
        return np.asarray(fit(x))

    def outline(self, lines: int, pixels: int) -> list[tuple[float, float]]:
        """(longitude, latitude) of the corners of an image of that size, around it."""
        lon, lat = self.lonlat([-0.5, lines - 0.5], [-0.5, pixels - 0.5])
        return [(float(lon[i, j]), float(lat[i, j])) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]


def read_geolocation(document: Document, lines: int, pixels: int) -> Geolocation:
    """The grid of an annotation, which must cover an image of ``lines`` by ``pixels``.

    Raises
    ------
    ProductError
        When points are missing or out of range, are no full grid, or cover less than the image.
    """
    points = document.items("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    table = np.array(
        [
            (
                point.number("line", -1e6, 1e6),
                point.number("pixel", -1e6, 1e6),
                point.number("latitude", -90.0, 90.0),
                point.number("longitude", -180.0, 360.0),
                point.number("incidenceAngle", 1e-3, 89.0),
            )
            for point in points
        ],
        dtype=np.float64,
    ).reshape(-1, 5)
    rows, row = np.unique(table[:, 0], return_inverse=True)
    columns, column = np.unique(table[:, 1], return_inverse=True)
    shape = (len(rows), len(columns))
    if min(shape) < 2 or len(table) != shape[0] * shape[1] or len(set(zip(row, column, strict=True))) != len(table):
        why = f"{len(table)} points at {shape[0]} lines and {shape[1]} pixels"
        raise document.error("the geolocation grid is incomplete", why)
    for name, nodes, count in (("line", rows, lines), ("pixel", columns, pixels)):
        before, after = nodes[0], count - 1 - nodes[-1]
        if before > _REACH * (nodes[1] - nodes[0]) or after > _REACH * (nodes[-1] - nodes[-2]):
            why = f"{name}s {nodes[0]:.0f} to {nodes[-1]:.0f} of 0 to {count - 1}"
            raise document.error("the geolocation grid does not cover the image", why)
    lat, lon = np.deg2rad(table[:, 2]), np.deg2rad(table[:, 3])
    normals = np.empty((*shape, 3))
    normals[row, column] = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    if _folded(normals):
        why = "its cells do not all turn the same way: a point is misplaced"
        raise document.error("the geolocation grid is folded", why)
    incidence: NDArray[np.float64] = np.empty(shape)
    incidence[row, column] = table[:, 4]
    return Geolocation(rows, columns, normals, incidence)


def _folded(normals: NDArray[np.float64]) -> bool:
    """Whether any corner of any cell of a grid of unit vectors [n, m, 3] turns another way than the rest."""
    corners = (normals[:-1, :-1], normals[:-1, 1:], normals[1:, 1:], normals[1:, :-1])  # around the cell
    turns = [
        np.einsum("ijk,ijk->ij", np.cross(corners[i - 3] - corners[i], corners[i - 1] - corners[i]), corners[i])
        for i in range(4)
    ]
    return not (np.all(np.array(turns) > 0.0) or np.all(np.array(turns) < 0.0))
