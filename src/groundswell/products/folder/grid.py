"""A grid of pixels on the ground: its coordinate reference system, where each pixel lies, how large it is.

GeoTIFF and its reference systems are read by rasterio (a core dependency): a plain wheel that carries GDAL and PROJ
with it. tifffile has neither the LZW that Earth Engine writes nor map projections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.errors import DataError, UsageError
from groundswell.physics.footprint import footprint
from groundswell.products.interpolation import Floats

if TYPE_CHECKING:
    from rasterio.crs import CRS

_NOMINAL = 0.01  # share by which ground distance may differ from map distance before it counts (UTM: 0.001)
_A, _E2 = 6378137.0, 6.69437999014e-3  # WGS 84: semi-major axis in metres, first eccentricity squared


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of equal size in a coordinate reference system.

    Attributes
    ----------
    crs : str
        As ``EPSG:32632``, else as well-known text.
    transform : (a, b, c, d, e, f)
        The corner (not the centre) of row i, column j lies at x = a j + b i + c, y = d j + e i + f.
    height, width : int
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    def __post_init__(self) -> None:
        a, b, c, d, e, f = self.transform
        if not np.isfinite((a, b, c, d, e, f)).all() or a * e - b * d == 0.0 or min(self.height, self.width) < 1:
            raise DataError(
                "a grid has no area", why=f"{self.height} x {self.width} pixels, transform {self.transform}"
            )

    @property
    def name(self) -> str:
        """The system and the outer corner of the first pixel: ``EPSG:32632/500000_5004480``."""
        system = self.crs if len(self.crs) < 32 else self.crs.split('"')[1].replace("/", "").replace(" ", "-")
        return f"{system}/{self.transform[2]:.9g}_{self.transform[5]:.9g}"

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """A part of the grid, or what lies beside it."""
        a, b, c, d, e, f = self.transform
        corner = (a * column + b * row + c, d * column + e * row + f)
        return replace(self, transform=(a, b, corner[0], d, e, corner[1]), height=height, width=width)

    def lonlat(self, rows: ArrayLike, columns: ArrayLike) -> tuple[Floats, Floats]:
        """Longitude and latitude (WGS 84, degrees) ``[...]`` at rows and columns ``[...]``; 0, 0 is the first centre.

        Raises
        ------
        DataError
            Where the projection has no such place.
        """
        from rasterio.warp import transform

        a, b, c, d, e, f = self.transform
        i, j = np.broadcast_arrays(np.asarray(rows, dtype=np.float64) + 0.5, np.asarray(columns, np.float64) + 0.5)
        x, y = a * j + b * i + c, d * j + e * i + f
        try:
            lon, lat = (
                np.asarray(v).reshape(x.shape)
                for v in transform(system(self.crs), system("EPSG:4326"), x.ravel(), y.ravel())
            )
        except Exception as error:  # GDAL's errors have no common base in rasterio
            raise DataError("a grid has no place on the Earth", where=self.name, why=str(error)) from error
        if not (np.isfinite(lon).all() and np.isfinite(lat).all() and np.abs(lat).max() <= 90.0):
            raise DataError("a grid has no place on the Earth", where=self.name, why="its system does not reach there")
        return (lon + 180.0) % 360.0 - 180.0, lat

    def cells(self, lon: ArrayLike, lat: ArrayLike) -> tuple[Floats, Floats]:
        """Rows and columns ``[...]`` of longitudes and latitudes ``[...]``; inf where none is. Undoes `lonlat`."""
        from rasterio.warp import transform

        a, b, c, d, e, f = self.transform
        lam, phi = np.broadcast_arrays(np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64))
        found = transform(system("EPSG:4326"), system(self.crs), lam.ravel(), phi.ravel())
        x, y = (np.asarray(v).reshape(lam.shape) for v in found)
        area = a * e - b * d
        rows, columns = (a * (y - f) - d * (x - c)) / area, (e * (x - c) - b * (y - f)) / area
        return rows - 0.5, columns - 0.5

    def spacing_m(self) -> tuple[float, float]:
        """Metres from row to row and from column to column, in the middle.

        Those of the map where they are those of the ground to 1 % (UTM); else (degrees, Mercator) along the WGS 84
        ellipsoid.
        """
        a, b, _, d, e, _ = self.transform
        middle = ((self.height - 1) / 2, (self.width - 1) / 2)
        half = ((0.5, 0.0), (0.0, 0.5))
        crs = system(self.crs)
        found = []
        for (down, across), steps in zip(half, (math.hypot(b, e), math.hypot(a, d)), strict=True):
            ground = _distance(
                *self.lonlat(middle[0] + np.array((-down, down)), middle[1] + np.array((-across, across)))
            )
            nominal = steps * float(crs.linear_units_factor[1]) if crs.is_projected else math.inf
            found.append(nominal if abs(nominal / ground - 1.0) < _NOMINAL else ground)
        return found[0], found[1]

    def place(self) -> dict[str, Any]:
        """The fields of `Metadata` that the grid tells: centre, footprint, spacings."""
        lon, lat = self.lonlat((self.height - 1) / 2, (self.width - 1) / 2)
        bottom, right = self.height - 0.5, self.width - 0.5
        corners = self.lonlat((-0.5, -0.5, bottom, bottom), (-0.5, right, right, -0.5))
        down, across = self.spacing_m()
        return {
            "lon": float(lon),
            "lat": float(lat),
            "footprint": footprint([(float(x), float(y)) for x, y in zip(*corners, strict=True)]),
            "azimuth_spacing_m": down,
            "range_spacing_m": across,
        }


def _distance(lon: Floats, lat: Floats) -> float:
    """Metres between two near points, by the radii of curvature of the ellipsoid."""
    middle = math.radians(float(lat.mean()))
    curvature = 1.0 - _E2 * math.sin(middle) ** 2
    north = math.radians(float(lat[1] - lat[0])) * _A * (1.0 - _E2) / curvature**1.5
    east = math.radians(float((lon[1] - lon[0] + 180.0) % 360.0 - 180.0)) * _A * math.cos(middle) / math.sqrt(curvature)
    return math.hypot(north, east)


def system(text: str) -> CRS:
    """The coordinate reference system of a name or text; `UsageError` when there is no such."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise UsageError("no such coordinate reference system", where=text[:80], why=str(error)) from error


def affine(grid: Grid) -> Any:
    """The transform as rasterio takes it."""
    from rasterio.transform import Affine

    return Affine(*grid.transform)


def grid_of(dataset: Any) -> Grid | None:
    """The grid of an open rasterio dataset; None where it is not on a map."""
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    epsg = dataset.crs.to_epsg()
    t = dataset.transform
    crs = f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt()
    return Grid(crs, (t.a, t.b, t.c, t.d, t.e, t.f), dataset.height, dataset.width)


def parse_grid(text: str) -> Grid:
    """A grid as a user gives it: a GeoTIFF whose grid it is, or ``CRS,xmin,ymin,xmax,ymax,spacing`` in the CRS's units.

    Raises
    ------
    UsageError, DataError
        When it is neither.
    """
    from groundswell.products.folder.geotiff import read_header

    fix = "give a GeoTIFF, or system, west, south, east, north, spacing: EPSG:32632,500000,5000000,544800,5044800,10"
    if Path(text).is_file():
        grid = read_header(text).grid
        if grid is None:
            raise DataError("the template of a grid is on no map", where=text, fix=fix)
        return grid
    crs, *numbers = text.split(",")
    try:
        west, south, east, north, spacing = (float(number) for number in numbers)
    except ValueError:
        raise UsageError("neither a file nor a grid", where=text, fix=fix) from None
    if not (west < east and south < north and spacing > 0.0):
        raise UsageError("a grid has no area", where=text, fix=fix)
    counts = ((north - south) / spacing, (east - west) / spacing)
    height, width = (math.ceil(count - 1e-6) for count in counts)
    if max(height, width) > 10**7:
        raise UsageError(
            f"a grid of {height} x {width} pixels", where=text, why="the spacing is in units of the system", fix=fix
        )
    grid = Grid(crs.strip(), (spacing, 0.0, west, 0.0, -spacing, north), height, width)
    system(grid.crs)
    return grid


def centres(grid: Grid) -> tuple[Floats, Floats]:
    """Longitude and latitude (degrees) ``[height, width]`` of every pixel's centre."""
    rows: NDArray[np.float64] = np.arange(grid.height, dtype=np.float64)[:, None]
    return grid.lonlat(rows, np.arange(grid.width, dtype=np.float64)[None, :])
