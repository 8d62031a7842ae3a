"""Seasonal composites: many acquisitions over one grid become the 12 channels of the land papers.

Source: the public code of M3LEO and geetiles (arXiv 2310.00826, 2406.04230): the median over a season of VV, of VH, and
their ratio; the ratio is that of the two composites, not the composite of ratios. They keep ascending passes alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, UsageError
from groundswell.physics.imagette import Channel, Imagette, Label, Metadata, Quantity
from groundswell.products.composites.acquisition import Acquisition, Planes, of_geotiff, of_product, on_grid
from groundswell.products.folder.bands import COMPOSITE, SEASONS, quantity_of
from groundswell.products.folder.grid import Grid
from groundswell.products.safe.find import find_products
from groundswell.products.source import Rejected

Statistic = Literal["median", "mean"]
STATISTICS: tuple[Statistic, ...] = ("median", "mean")
TILE = (448, 448)
"""Rows and columns of a tile of the papers, at 10 m."""
_STACK_BYTES = 256e6  # of the acquisitions of one season, in one strip of a tile
_GEOMETRY = {
    "scene": "geolocation grid of the annotation, inverted: not terrain-corrected",
    "tile": "the maps of the GeoTIFF files",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeSettings:
    """How acquisitions become composites.

    Attributes
    ----------
    grid : Grid
        The ground to cover; tiles begin at its first pixel, and the last ones may reach beyond it.
    statistic : "median" or "mean"
        Of linear sigma0. The median of an even number is the geometric mean of the middle two, which is the mean of
        their decibels, as published; their mean where one is not positive.
    tile : (rows, columns), optional
        Of an imagette: the whole grid if it is smaller than 448 x 448, else that.
    orbit_pass : "ascending" or "descending", optional
        Only acquisitions of that pass (as published: ascending); those that do not tell theirs are set aside.
    quantity : Quantity, optional
        Of GeoTIFF files: sigma0 or sigma0_db; decibels show themselves.
    bands : tuple of str, optional
        Names of the bands of GeoTIFF files that do not say.
    """

    grid: Grid
    statistic: Statistic = "median"
    tile: tuple[int, int] | None = None
    orbit_pass: str | None = None
    quantity: Quantity | None = None
    bands: tuple[str, ...] | None = None


class Composite:
    """Tiles of seasonal composites: a `groundswell.products.source.Source`.

    Headers are read when it is made; pixels by `read`, tile by tile, and in strips of a tile where there are many
    acquisitions. Channels are `COMPOSITE`: sigma0 (linear) of VV and VH, and their linear ratio; a season without an
    acquisition is NaN. The labels ``acquisitions_<season>`` count those with a valid pixel in the tile.

    Attributes
    ----------
    channels, mask_names, description, eight_bit
        As every source has them; the description holds the acquisitions of each season.
    acquisitions : tuple of Acquisition
        In order of time.
    rejected : list of Rejected
        Files that could not be used, with their reason.
    size : (rows, columns)
        Of a tile.

    Raises
    ------
    UsageError, DataError
        When the settings make no sense, or no file can be used.
    """

    mask_names: tuple[str, ...] = ()
    eight_bit = False

    def __init__(self, sources: Sequence[str | Path], settings: CompositeSettings) -> None:
        s = self.settings = settings
        if s.statistic not in STATISTICS:
            raise UsageError(f"no statistic is called {s.statistic!r}", fix=f"one of {', '.join(STATISTICS)}")
        if s.orbit_pass not in (None, "ascending", "descending"):
            raise UsageError(f"no pass is called {s.orbit_pass!r}", fix="ascending or descending")
        self.rejected: list[Rejected] = []
        self.acquisitions = tuple(self._find(sources))
        if not self.acquisitions:
            reasons = "; ".join(f"{item.id}: {item.reason}" for item in self.rejected[:3])
            raise DataError("no acquisition can be used", where=", ".join(map(str, sources)), why=reasons or None)
        self.size = s.tile or (
            TILE if s.grid.height > TILE[0] or s.grid.width > TILE[1] else (s.grid.height, s.grid.width)
        )
        self.channels = tuple(Channel(name, quantity_of(name, Quantity.SIGMA0)) for name in COMPOSITE)
        self._tiles = {
            f"{s.grid.name}/r{row:04d}c{column:04d}": s.grid.window(
                row * self.size[0], column * self.size[1], *self.size
            )
            for row in range(-(-s.grid.height // self.size[0]))
            for column in range(-(-s.grid.width // self.size[1]))
        }
        self.description: dict[str, Any] = self._describe()

    def ids(self) -> list[str]:
        """Every tile: the name of the grid, row and column of the tile; sorted."""
        return sorted(self._tiles)

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The tiles asked for, in that order; what no acquisition covers, or a damaged file does, with its reason."""
        return [self._read(id_) for id_ in ids]

    def notes(self) -> list[str]:
        """What the owner of the data should know, most serious first."""
        said = []
        empty = [season for season, own in self._by_season().items() if not own]
        if empty:
            said.append(f"no acquisition in {', '.join(empty)}: their {3 * len(empty)} channels have no value")
        passes = {a.orbit_pass for a in self.acquisitions}
        if len(passes) > 1:
            said.append(
                "acquisitions are of several passes, which see terrain from two sides; the papers took ascending ones "
                "alone: --orbit-pass ascending"
            )
        if any(a.swath is not None for a in self.acquisitions):
            said.append(
                "scenes are placed by the geolocation grid of their annotation, not terrain-corrected: over land, "
                "relief moves pixels by its height / tan(incidence), 120 m for 100 m at 40 degrees, and slopes keep "
                "their brightness; where that matters, use terrain-corrected GeoTIFF tiles"
            )
        noisy = [a for a in self.acquisitions if a.noisy is not None]
        if noisy:
            said.append(
                f"thermal noise stays in {len(noisy)} scenes, and in what they are composed to: {noisy[0].noisy}"
            )
        years = {a.time.year + (a.time.month == 12) for a in self.acquisitions}
        if len(years) > 1:
            said.append(
                f"acquisitions span the years {min(years)} to {max(years)} (December counts to the next): "
                "a season takes all"
            )
        return said

    def _find(self, sources: Sequence[str | Path]) -> Iterator[Acquisition]:
        found: dict[str, Acquisition] = {}
        files = find_products(sources)
        tiles = {path.absolute() for path in files.images if path.suffix.lower() in (".tif", ".tiff")}
        for path in sorted(path.absolute() for path in (*files.products, *tiles)):
            try:
                if path in tiles:
                    these = [of_geotiff(path, self.settings.quantity, self.settings.bands)]
                else:
                    these = of_product(path)
            except DataError as error:
                self.rejected.append(Rejected(path.name, f"{error.what}: {error.why}" if error.why else error.what))
                continue
            for one in these:
                wanted = self.settings.orbit_pass
                if wanted is not None and one.orbit_pass != wanted:
                    self.rejected.append(Rejected(one.id, f"its pass is {one.orbit_pass or 'unknown'}, not {wanted}"))
                elif one.content in found:
                    self.rejected.append(Rejected(one.id, f"the same as {found[one.content].id}"))
                else:
                    found[one.content] = one
        yield from sorted(found.values(), key=lambda a: (a.time, a.id))

    def _by_season(self) -> dict[str, list[Acquisition]]:
        return {season: [a for a in self.acquisitions if a.season == season] for season in SEASONS}

    def _describe(self) -> dict[str, Any]:
        s = self.settings
        kinds = sorted({"tile" if a.swath is None else "scene" for a in self.acquisitions})
        return {
            "kind": "seasonal composite",
            "statistic": s.statistic,
            "channels": [channel.name for channel in self.channels],
            "ratio": "VV composite over VH composite, linear",
            "grid": {
                "crs": s.grid.crs,
                "transform": list(s.grid.transform),
                "height": s.grid.height,
                "width": s.grid.width,
            },
            "tile": list(self.size),
            "geometry": [_GEOMETRY[kind] for kind in kinds],
            "orbit_pass": s.orbit_pass,
            "with_thermal_noise": [a.id for a in self.acquisitions if a.noisy is not None],
            "passes": dict(sorted(Counter(a.orbit_pass or "unknown" for a in self.acquisitions).items())),
            "seasons": {
                season: {
                    "months": list(SEASONS[season]),
                    "acquisitions": len(own),
                    "ids": [a.id for a in own],
                    "times": [a.time.isoformat() for a in own],
                    "sha256": hashlib.sha256("".join(a.content for a in own).encode()).hexdigest(),
                }
                for season, own in self._by_season().items()
            },
        }

    def _read(self, id_: str) -> Imagette | Rejected:
        if id_ not in self._tiles:
            raise DataError("a tile is not in the grid", where=id_, fix="give the grid that the archive was begun with")
        tile = self._tiles[id_]
        try:
            pixels, counts = self._compose(tile)
        except DataError as error:
            return Rejected(id_, f"{error.where}: {error.why or error.what}")
        if not sum(counts.values()):
            return Rejected(id_, "no acquisition covers it")
        missions = {a.mission for a in self.acquisitions}
        labels: dict[str, Label] = {f"acquisitions_{season}": count for season, count in counts.items()}
        about = json.dumps({"id": id_, **self.description}, sort_keys=True)
        return Imagette(
            pixels,
            self.channels,
            Metadata(
                id=id_,
                mission=missions.pop() if len(missions) == 1 else None,
                polarisations="VV,VH",
                source_hash=hashlib.sha256(about.encode()).hexdigest(),
                **tile.place(),
            ),
            labels,
        )

    def _compose(self, tile: Grid) -> tuple[Planes, dict[str, int]]:
        """The 12 channels of a tile, and how many acquisitions each season has in it."""
        planes: dict[str, Planes] = {}
        counts = dict.fromkeys(SEASONS, 0)
        for season, own in self._by_season().items():
            both = np.full((2, tile.height, tile.width), np.nan, np.float32)
            rows = max(1, int(_STACK_BYTES / (8.0 * max(1, len(own)) * tile.width)))
            seen = set()
            for first in range(0, tile.height, rows) if own else ():
                strip = tile.window(first, 0, min(rows, tile.height - first), tile.width)
                layers = [(a.id, layer) for a in own if (layer := on_grid(a, strip)) is not None]
                seen |= {name for name, _ in layers}
                if layers:
                    stack = np.stack([layer for _, layer in layers])
                    del layers
                    both[:, first : first + strip.height] = compose(stack, self.settings.statistic)
            counts[season] = len(seen)
            planes[f"{season}_vv"], planes[f"{season}_vh"] = both
            planes[f"{season}_ratio"] = ratio(*both)
        return np.stack([planes[name] for name in COMPOSITE]), counts


def compose(stack: NDArray[np.float32], statistic: Statistic) -> NDArray[np.float32]:
    """Median or mean of linear sigma0 ``[n, ...]`` over the first axis, leaving out NaN; NaN where all are.

    The median of an even number: see `CompositeSettings`.
    """
    there = np.isfinite(stack)
    count = there.sum(axis=0)
    if statistic == "mean":
        total = np.where(there, stack, 0.0).sum(axis=0, dtype=np.float64)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    ordered = np.sort(np.where(there, stack, np.nan), axis=0)  # NaN last
    low, high = (
        np.take_along_axis(ordered, at.clip(0)[None], 0)[0].astype(np.float64) for at in ((count - 1) // 2, count // 2)
    )
    with np.errstate(invalid="ignore"):
        between = np.where(low > 0.0, np.sqrt(np.abs(low)) * np.sqrt(np.abs(high)), 0.5 * (low + high))
    return np.where(count > 0, np.where(low == high, low, between), np.nan).astype(np.float32)


def ratio(vv: NDArray[np.float32], vh: NDArray[np.float32]) -> NDArray[np.float32]:
    """VV over VH, linear; NaN where one is not positive (noise removal leaves such), for it has no decibels."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((vv > 0.0) & (vh > 0.0), vv / vh, np.nan).astype(np.float32)
