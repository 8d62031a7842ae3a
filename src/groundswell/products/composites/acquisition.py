"""One acquisition among many, put on a grid: a scene of a product, or a GeoTIFF of one day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, QuantityError
from groundswell.files import sha256_file
from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import looks_like_dn
from groundswell.products.composites.geocode import locate
from groundswell.products.folder.bands import season_of
from groundswell.products.folder.files import MAX_PIXELS
from groundswell.products.folder.geotiff import acquired, opened, product_facts, read_header
from groundswell.products.folder.grid import Grid, affine, centres, grid_of, system
from groundswell.products.safe.scene import Scene

POLARISATIONS = ("VV", "VH")
_FINER = 1.5  # cells of the grid per pixel above which pixels are averaged before they are sampled
Planes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What is known of an acquisition before its pixels are read.

    ``swath`` is that of a scene, None for a GeoTIFF, whose ``bands`` are the indices (from 1) of VV and VH and whose
    ``quantity`` is sigma0 or sigma0_db. ``orbit_pass`` is None where unknown. ``noisy`` says why thermal noise
    stays in a scene, None where it does not.
    """

    id: str
    path: Path
    time: datetime
    orbit_pass: str | None
    mission: str | None
    content: str
    swath: str | None = None
    bands: tuple[int | None, int | None] = (None, None)
    quantity: Quantity | None = None
    noisy: str | None = None

    @property
    def season(self) -> str:
        """By the month of its time."""
        return season_of(self.time.month)


def of_product(path: Path) -> list[Acquisition]:
    """The ground-range scenes of a product; `DataError` when it holds none with VV or VH."""
    from groundswell.products.safe.sentinel1 import open_product

    product = open_product(path)
    found = []
    for key in product:
        if not isinstance(key, str):
            continue
        scene = product[key]
        kept = [p for p in POLARISATIONS if p in scene.polarisations]
        m, slant = scene.metadata, scene.annotation.slant
        if kept and not slant and m.time is not None:
            content = scene.fingerprint(kept)
            states = [scene.image(p).denoising for p in kept]
            noisy = next((state.note for state in states if not state.denoised), None)
            found.append(Acquisition(m.id, path, m.time, _pass(m.orbit_pass), m.mission, content, key, noisy=noisy))
    if not found:
        raise DataError("no scene for a composite", where=path, why="it takes ground-range (GRD) scenes with VV or VH")
    return found


def of_geotiff(path: Path, quantity: Quantity | None, names: tuple[str, ...] | None) -> Acquisition:
    """A GeoTIFF of one acquisition; ``names`` are of its bands where it does not say.

    Raises
    ------
    DataError, QuantityError
        When it is on no map, has neither VV nor VH, tells no day, or does not tell its quantity.
    """
    header = read_header(path)
    said = tuple(str(name or "") for name in header.names)
    given = [name.strip().upper() for name in (names if names and len(names) == len(said) and not all(said) else said)]
    if header.grid is None:
        raise DataError("a GeoTIFF is on no map", where=path, why="it has no coordinate reference system")
    vv, vh = (given.index(p) + 1 if p in given else None for p in POLARISATIONS)
    if vv is None and vh is None:
        raise DataError("neither VV nor VH", where=path, why=f"its bands are {said}", fix="--bands VV,VH names them")
    time = acquired(path, header.items)
    if time is None:
        raise DataError(
            "the day of an acquisition is unknown",
            where=path,
            why="a composite needs its season, and neither metadata nor name say one day",
            fix="put it in the name, such as tile_20200131.tif (one date only)",
        )
    facts, items = product_facts(path.stem), header.items
    pass_ = items.get("orbitproperties_pass") or items.get("orbit_pass")
    mission = facts.get("mission")
    return Acquisition(
        path.stem, path, time, _pass(pass_), str(mission) if mission else None, sha256_file(path),
        bands=(vv, vh), quantity=_quantity(path, quantity, vv or vh or 1),
    )  # fmt: skip


def _pass(text: str | None) -> str | None:
    word = (text or "").strip().lower()
    return next((name for name in ("ascending", "descending") if word == name), None)


def _quantity(path: Path, declared: Quantity | None, band: int) -> Quantity:
    """As declared, if a sample of the values can be that; decibels show themselves."""
    with opened(path) as dataset:
        rows, columns = (min(n, 256) for n in dataset.shape)
        sample = dataset.read(band, out_shape=(rows, columns), masked=True).astype(np.float32).filled(np.nan)
    valid = sample[np.isfinite(sample)]
    looks = valid.size > 0 and float(np.median(valid)) < -1.0
    if declared not in (None, Quantity.SIGMA0, Quantity.SIGMA0_DB):
        raise QuantityError(f"{declared} cannot be composed", where=path, fix="sigma0 or sigma0_db")
    if declared is None and not looks and valid.size:
        raise QuantityError(
            "what the pixels measure cannot be told: declare it", where=path, fix="--quantity sigma0, or sigma0_db"
        )
    reason = looks_like_dn(sample) if declared is Quantity.SIGMA0 else None
    if reason is not None:
        raise QuantityError("the values are not of the declared quantity", where=path, why=reason)
    return declared or Quantity.SIGMA0_DB


def on_grid(acquisition: Acquisition, grid: Grid) -> Planes | None:
    """Linear sigma0 of VV and VH on a grid, float32 ``[2, height, width]``, NaN where it has none; None for no pixel.

    Scenes are placed by `geocode.locate` (no terrain correction), GeoTIFFs by their own map.
    Where the pixels are finer than the grid they are averaged, in power; then, or where they are not, interpolated
    linearly. A GeoTIFF on the same cells is taken as it is.
    """
    planes = _of_geotiff(acquisition, grid) if acquisition.swath is None else _of_scene(acquisition, grid)
    return planes if planes is not None and np.isfinite(planes).any() else None


def _of_geotiff(acquisition: Acquisition, grid: Grid) -> Planes | None:
    from rasterio.warp import Resampling, reproject
    from rasterio.windows import Window

    out = np.full((2, grid.height, grid.width), np.nan, np.float32)
    with opened(acquisition.path) as dataset:
        own = grid_of(dataset)
        assert own is not None
        rows, columns = (at[np.isfinite(at)] for at in own.cells(*_outline(grid)))
        if not rows.size or not columns.size:
            return None
        first = np.floor((rows.min(), columns.min())).astype(int) - 2
        last = np.ceil((rows.max(), columns.max())).astype(int) + 3
        first, last = first.clip(0), last.clip(None, (own.height, own.width))
        if (last <= first).any():
            return None  # beside the file
        (height, width), (top, left) = last - first, first
        if height * width > MAX_PIXELS:
            raise DataError(
                "a tile is too coarse", where=acquisition.path, why=f"{height} x {width} pixels under one tile"
            )
        part = own.window(int(top), int(left), int(height), int(width))
        coarse = np.divide(grid.spacing_m(), own.spacing_m()).min() > _FINER
        for plane, band in zip(out, acquisition.bands, strict=True):
            if band is None:
                continue
            window = Window(left, top, width, height)
            values = dataset.read(band, window=window, masked=True).astype(np.float32).filled(np.nan)
            if acquisition.quantity is Quantity.SIGMA0_DB:
                values = np.power(np.float32(10.0), values / np.float32(10.0))
            shift = _same_cells(part, grid)
            if shift is not None:
                _paste(values, plane, shift)
                continue
            reproject(
                values, plane, src_transform=affine(part), src_crs=system(part.crs), dst_transform=affine(grid),
                dst_crs=system(grid.crs), src_nodata=np.nan, dst_nodata=np.nan, init_dest_nodata=True,
                resampling=Resampling.average if coarse else Resampling.bilinear,
            )  # fmt: skip
    return out


def _same_cells(part: Grid, grid: Grid) -> tuple[int, int] | None:
    """Row and column of ``grid`` at which ``part`` begins, if their cells are the same to 1e-3 of a pixel."""
    (a, b, c, d, e, f), (p, q, r, s, t, u) = grid.transform, part.transform
    size = max(abs(a), abs(b), abs(d), abs(e))
    if part.crs != grid.crs or max(abs(x - y) for x, y in zip((a, b, d, e), (p, q, s, t), strict=True)) > 1e-9 * size:
        return None
    area = a * e - b * d
    column, row = (e * (r - c) - b * (u - f)) / area, (a * (u - f) - d * (r - c)) / area
    near = round(row), round(column)
    return near if max(abs(row - near[0]), abs(column - near[1])) < 1e-3 else None


def _paste(values: Planes, plane: Planes, at: tuple[int, int]) -> None:
    """Copy what overlaps of ``values``, whose first pixel lies at row and column ``at`` of ``plane``."""
    target = tuple(slice(max(a, 0), min(a + n, m)) for a, n, m in zip(at, values.shape, plane.shape, strict=True))
    source = tuple(slice(t.start - a, t.stop - a) for t, a in zip(target, at, strict=True))
    if all(t.start < t.stop for t in target):
        plane[target] = values[source]


def _outline(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of points along the edge of a grid and through it, 17 by 17."""
    rows, columns = np.linspace(-0.5, grid.height - 0.5, 17), np.linspace(-0.5, grid.width - 0.5, 17)
    return grid.lonlat(rows[:, None], columns[None, :])


@lru_cache(maxsize=4)
def _scene(path: Path, swath: str) -> Scene:
    from groundswell.products.safe.sentinel1 import open_product

    return open_product(path)[swath]


def _of_scene(acquisition: Acquisition, grid: Grid) -> Planes | None:
    assert acquisition.swath is not None
    scene = _scene(acquisition.path, acquisition.swath)
    lines, pixels = locate(scene.geolocation, *_outline(grid))
    if not np.isfinite(lines).any():
        return None
    lines, pixels = locate(scene.geolocation, *centres(grid))
    a, (height, width) = scene.annotation, scene.shape
    ground = max(grid.spacing_m())
    coarse = ground > _FINER * max(a.azimuth_spacing_m, a.range_spacing_m)
    margin = np.array((2.0 * ground / a.azimuth_spacing_m, 2.0 * ground / a.range_spacing_m) if coarse else (2.0, 2.0))
    inside = (lines > -0.5) & (lines < height - 0.5) & (pixels > -0.5) & (pixels < width - 0.5)
    if not inside.any():
        return None
    lowest = np.floor((lines[inside].min(), pixels[inside].min()) - margin).clip(0).astype(int)
    highest = (
        np.ceil(np.add((lines[inside].max(), pixels[inside].max()), margin)).astype(int).clip(None, (height, width))
    )
    kept = [p for p in POLARISATIONS if p in scene.polarisations]
    data = scene.to_dataset(
        spacing_m=ground if coarse else None,
        polarisations=kept,
        lines=slice(int(lowest[0]), int(highest[0])),
        pixels=slice(int(lowest[1]), int(highest[1])),
    )
    out = np.full((2, grid.height, grid.width), np.nan, np.float32)
    at = _position(lines, data["line"].values), _position(pixels, data["pixel"].values)
    for p, values in zip(kept, data["sigma0"].values, strict=True):
        out[POLARISATIONS.index(p)] = _bilinear(values, *at)
    out[:, ~inside] = np.nan
    return out


def _position(native: NDArray[np.float64], of_cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index of native positions among cells with centres at these lines (or pixels); NaN half a cell beyond them."""
    if len(of_cells) < 2:
        return np.asarray(native - of_cells[0])
    step = (of_cells[-1] - of_cells[0]) / (len(of_cells) - 1)
    index = np.interp(native, of_cells, np.arange(len(of_cells)))
    beyond = np.where(native < of_cells[0], native - of_cells[0], np.maximum(native - of_cells[-1], 0.0)) / step
    index = index + beyond
    index[(index < -0.5) | (index > len(of_cells) - 0.5)] = np.nan
    return np.asarray(index.clip(0, len(of_cells) - 1))


def _bilinear(values: Planes, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Planes:
    """Values ``[h, w]`` between rows and columns; a neighbour without data counts only where it has weight."""
    there = np.isfinite(rows) & np.isfinite(columns)
    y, x = np.where(there, rows, 0.0), np.where(there, columns, 0.0)
    i, j = y.astype(np.int64), x.astype(np.int64)
    u, v = y - i, x - j
    total = np.zeros(rows.shape)
    for di, dj, weight in ((0, 0, (1 - u) * (1 - v)), (0, 1, (1 - u) * v), (1, 0, u * (1 - v)), (1, 1, u * v)):
        near = values[(i + di).clip(None, values.shape[0] - 1), (j + dj).clip(None, values.shape[1] - 1)]
        total += np.where(weight > 0.0, weight * near, 0.0)
    total[~there] = np.nan
    return total.astype(np.float32)
