"""What was measured or modelled where and when, and which of it lies near an imagette.

Two shapes cover it: `Points`, each with its own time and place (buoy reports, altimeter tracks), and a `Grid` of
times by places (reanalysis, wave models, moorings), whose values stay on disk until they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.errors import DataError

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth (IUGG)."""
NANOSECONDS_AN_HOUR = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Imagettes and the reference values near them, one entry a pair.

    ``imagette`` int64 [k] counts into the imagettes asked about, ``minutes`` float64 [k] is reference time less
    imagette time, ``km`` float64 [k] the great-circle distance, ``values`` name to float64 [k] (NaN where missing),
    ``source`` int64 [k] counts into the sources of the reference.
    """

    imagette: NDArray[np.int64]
    minutes: NDArray[np.float64]
    km: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]
    source: NDArray[np.int64]


class Points:
    """Values each with its own time (int64 [n], ns since 1970, UTC) and place (degrees, float64 [n])."""

    def __init__(
        self,
        name: str,
        time: NDArray[np.int64],
        lon: NDArray[np.float64],
        lat: NDArray[np.float64],
        values: Mapping[str, NDArray[np.float64]],
        source: Sequence[Any] | None = None,
    ) -> None:
        order = np.argsort(time, kind="stable")
        self.time, self._place = time[order], _radians(lon, lat)[order]
        self.values = {key: np.asarray(value, dtype=np.float64)[order] for key, value in values.items()}
        codes, labels = (
            (np.zeros(len(time), np.int64), [""]) if source is None else pd.factorize(pd.Series(source).astype(str))
        )
        self._code = np.asarray(codes, dtype=np.int64)[order]
        self.sources = [name if source is None else f"{name}:{label}" for label in labels]

    @property
    def variables(self) -> list[str]:
        """Names of the values."""
        return list(self.values)

    def __len__(self) -> int:
        return len(self.time)

    def pairs(
        self, time: NDArray[np.int64], lon: NDArray[np.float64], lat: NDArray[np.float64], hours: float, km: float
    ) -> Pairs:
        """Every value within a time and a distance of imagettes (``time`` ascending)."""
        window = round(hours * NANOSECONDS_AN_HOUR)
        place = _radians(lon, lat)
        found: list[tuple[Any, Any, Any]] = [_NO_PAIRS]
        # Trees of fixed stretches of time, so that each is built once however the imagettes are split.
        length = max(window, NANOSECONDS_AN_HOUR)
        for block in range(int((time[0] - window) // length), int((time[-1] + window) // length) + 1):
            first, last = np.searchsorted(self.time, [block * length, (block + 1) * length])
            if first < last:
                i, j, distance = _near(self._tree(int(first), int(last)), place, km)
                found.append((i, j + first, distance))
        i, j, distance = (np.concatenate([one[n] for one in found]) for n in range(3))
        kept = np.abs(self.time[j] - time[i]) <= window
        i, j, distance = i[kept], j[kept], distance[kept]
        minutes = (self.time[j] - time[i]) / (NANOSECONDS_AN_HOUR / 60)
        return Pairs(i, minutes, distance, {k: v[j] for k, v in self.values.items()}, self._code[j])

    @lru_cache(maxsize=8)  # noqa: B019 - a few trees of one table that lives as long as the run
    def _tree(self, first: int, last: int) -> Any:
        return _ball_tree(self._place[first:last])


class Grid:
    """Values on times (int64 [T], ns since 1970, UTC) by places (degrees, float64 [P]), read in stretches of time.

    ``arrays`` holds xarray variables of dimensions (time, places), the places stacked from any number of dimensions.
    """

    def __init__(
        self,
        name: str,
        time: NDArray[np.int64],
        lon: NDArray[np.float64],
        lat: NDArray[np.float64],
        arrays: Mapping[str, Any],
    ) -> None:
        self._order = np.argsort(time, kind="stable")
        self.time, self._arrays = time[self._order], dict(arrays)
        self._known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
        self._tree = _ball_tree(_radians(lon[self._known], lat[self._known]))
        self._places = len(lon)
        self.sources = [name]

    @property
    def variables(self) -> list[str]:
        """Names of the values."""
        return list(self._arrays)

    def __len__(self) -> int:
        return len(self.time) * len(self._known)

    def pairs(
        self, time: NDArray[np.int64], lon: NDArray[np.float64], lat: NDArray[np.float64], hours: float, km: float
    ) -> Pairs:
        """Every value within a time and a distance of imagettes (``time`` ascending)."""
        window = round(hours * NANOSECONDS_AN_HOUR)
        first, last = np.searchsorted(self.time, [time[0] - window, time[-1] + window + 1])
        near, place, distance = _near(self._tree, _radians(lon, lat), km)
        steps = np.arange(first, last)
        step = np.tile(steps, len(near))
        i, place = np.repeat(near, len(steps)), np.repeat(self._known[place], len(steps))
        distance = np.repeat(distance, len(steps))
        kept = np.abs(self.time[step] - time[i]) <= window
        i, place, distance, step = i[kept], place[kept], distance[kept], step[kept]
        minutes = (self.time[step] - time[i]) / (NANOSECONDS_AN_HOUR / 60)
        values = {name: self._read(name, int(first), int(last), step, place) for name in self._arrays}
        return Pairs(i, minutes, distance, values, np.zeros(len(i), dtype=np.int64))

    def _read(
        self, name: str, first: int, last: int, step: NDArray[np.int64], place: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if not len(step):
            return np.zeros(0)
        rows = self._order[first:last]
        try:
            slab = np.asarray(self._arrays[name][int(rows.min()) : int(rows.max()) + 1].values, dtype=np.float64)
        except Exception as error:  # whatever a reader makes of damaged bytes
            raise DataError("a reference table is damaged", where=self.sources[0], why=str(error)) from error
        return np.asarray(slab.reshape(len(slab), self._places)[self._order[step] - rows.min(), place])


Reference = Points | Grid
_NO_PAIRS: tuple[Any, Any, Any] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _radians(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.deg2rad(np.stack([lat, lon], axis=1))


def _ball_tree(place: NDArray[np.float64]) -> Any:
    from sklearn.neighbors import BallTree

    return BallTree(place, metric="haversine")


def _near(
    tree: Any, place: NDArray[np.float64], km: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (row of ``place``, row of the tree, distance in km) within a great-circle distance."""
    near, distance = tree.query_radius(place, km / EARTH_RADIUS_KM, return_distance=True)
    counts = [len(part) for part in near]
    i = np.repeat(np.arange(len(place)), counts)
    return (
        i,
        np.concatenate([*near, _NO_PAIRS[1]]).astype(np.int64),
        np.concatenate([*distance, _NO_PAIRS[2]]) * EARTH_RADIUS_KM,
    )
