"""Which positions are land: the GLOBE elevation model at 30 arc seconds, as the package ``global-land-mask`` ships it.

GLOBE Task Team (1999), Global Land One-kilometer Base Elevation, NOAA: a cell is sea where the model has no elevation.
So the coast is known to 0.9 km north to south, lakes count as land, islands below that size may be missing, and
floating ice shelves count as sea. The package itself unpacks a gigabyte when imported; here its file is read into one
bit a cell (117 MB, about 2 s, once a process and only when first asked).
"""

from __future__ import annotations

import zipfile
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.errors import DataError, GroundswellError

RESOLUTION_DEG = 1.0 / 120.0
_ROWS, _COLUMNS = 21_600, 43_200
_BLOCK = 200  # rows unpacked at once


def is_land(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.bool_]:
    """Whether positions are land.

    Parameters
    ----------
    lon, lat : [...]
        Degrees; any longitude, wrapped.

    Returns
    -------
    bool [...] of the broadcast shape.

    Raises
    ------
    DataError
        When a position is not finite or a latitude is beyond a pole.
    GroundswellError
        When the mask is not installed or is damaged.
    """
    x, y = np.broadcast_arrays(np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64))
    if not np.all(np.isfinite(x) & (np.abs(y) <= 90.0)):  # NaN fails too
        raise DataError("a position is not on the globe", why="longitudes must be finite and latitudes from -90 to 90")
    row = np.floor((90.0 - y) / RESOLUTION_DEG).astype(np.int64).clip(0, _ROWS - 1)
    column = np.floor((x + 180.0) / RESOLUTION_DEG).astype(np.int64) % _COLUMNS
    sea = _sea()[row, column >> 3] >> (7 - (column & 7)).astype(np.uint8) & 1
    return np.asarray(sea == 0)


def land_fraction(lon: ArrayLike, lat: ArrayLike) -> float:
    """The share of positions (degrees) ``[...]`` that are land; errors as of `is_land`."""
    return float(is_land(lon, lat).mean())


@cache
def _sea() -> NDArray[np.uint8]:
    """One bit a cell, 1 at sea, ``[21600, 5400]``: rows from the north pole, columns from 180 degrees west."""
    spec = find_spec("global_land_mask")  # found, not imported
    if spec is None or spec.origin is None:
        raise GroundswellError("the land mask is not installed", fix="pip install global-land-mask")
    path = Path(spec.origin).with_name("globe_combined_mask_compressed.npz")
    sea = np.empty((_ROWS, _COLUMNS // 8), dtype=np.uint8)
    try:
        with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an unknown version of the npy format")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            if (shape, by_columns, dtype) != ((_ROWS, _COLUMNS), False, np.dtype(bool)):
                raise ValueError(f"{dtype} {shape} where bool {(_ROWS, _COLUMNS)} is expected")
            for start in range(0, _ROWS, _BLOCK):
                rows = np.frombuffer(file.read(_BLOCK * _COLUMNS), dtype=np.uint8)
                sea[start : start + _BLOCK] = np.packbits(rows.reshape(_BLOCK, _COLUMNS), axis=1)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise GroundswellError(
            "the land mask could not be read",
            where=path,
            why=str(error),
            fix="pip install --force-reinstall global-land-mask",
        ) from error
    return sea
