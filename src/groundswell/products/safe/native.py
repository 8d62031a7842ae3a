"""Variables on the native grid of an image, which are read where they are looked at.

One band of a scene has 430 million pixels: 1.7 GB as float32, and 14 GB with its place and its noise. So nothing is
read before a part is asked for, and then that part, some lines at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from groundswell.products.safe.geolocation import Geolocation
from groundswell.products.safe.image import SafeImage

Read = Callable[[NDArray[Any], range, range], None]
"""Fills an array with the values at lines and pixels of an image, both increasing."""
_FIELD_PIXELS = 2**20  # of a smooth field computed at a time
_GRID = ("azimuth", "range")


class _Lazy(BackendArray):
    """One plane, or several in a first dimension, of a part of an image."""

    def __init__(self, planes: Sequence[Read], window: tuple[slice, slice], dtype: DTypeLike, stacked: bool) -> None:
        self._planes, self._stacked = planes, stacked
        self._axes = tuple(range(part.start, part.stop) for part in window)
        self.dtype = np.dtype(dtype)
        self.shape = (len(planes),) * stacked + tuple(map(len, self._axes))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        first: Any = key[0] if self._stacked else 0
        chosen = self._planes[first] if isinstance(first, slice) else [self._planes[int(first)]]
        wanted: list[range] = []
        turns: list[int | slice] = []
        for axis, part in zip(self._axes, key[-2:], strict=True):
            at = axis[part] if isinstance(part, slice) else range(axis[part], axis[part] + 1)
            wanted.append(at if at.step > 0 else at[::-1])
            turns.append(slice(None, None, 1 if at.step > 0 else -1) if isinstance(part, slice) else 0)
        out = np.empty((len(chosen), *map(len, wanted)), self.dtype)
        if all(wanted):
            for plane, read in zip(out, chosen, strict=True):
                read(plane, wanted[0], wanted[1])
        return out[(slice(None) if isinstance(first, slice) else 0, *turns)]


def _variable(
    planes: Sequence[Read], window: tuple[slice, slice], dtype: DTypeLike, attributes: dict[str, str], stacked: bool
) -> xr.Variable:
    lazy: Any = indexing.LazilyIndexedArray(_Lazy(planes, window, dtype, stacked))
    # As of a file that xarray itself opened.
    cached: Any = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))  # type: ignore[no-untyped-call]
    return xr.Variable(("polarisation",) * stacked + _GRID, cached, attributes)


def native_bands(
    images: Sequence[SafeImage],
    window: tuple[slice, slice],
    calibration: str | None,
    denoise: bool,
    stacked: bool,
    attributes: dict[str, dict[str, str]],
) -> dict[str, Any]:
    """The variables ``values``, ``valid`` and (of calibrated ones) ``nesz``, with the attributes of each.

    Raises
    ------
    ProductError
        When a file is missing, or its header or table is damaged; damage among pixels is found when they are read.
    """
    for image in images:
        _ = image.measurement
        if calibration is not None:
            image.lut(calibration)
    reads: dict[str, list[Read]] = {
        "values": [partial(_values, image, calibration, denoise) for image in images],
        "valid": [partial(_valid, image) for image in images],
    }
    if calibration is not None:
        reads["nesz"] = [partial(_field, image.nesz) for image in images]
    return {name: _variable(read, window, np.float32, attributes[name], stacked) for name, read in reads.items()}


def native_places(
    place: Geolocation, window: tuple[slice, slice], attributes: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """The variables ``lon``, ``lat`` and ``incidence``, with the attributes of each."""
    reads: dict[str, tuple[Read, DTypeLike]] = {
        "lon": (partial(_field, place.longitude), np.float64),
        "lat": (partial(_field, place.latitude), np.float64),
        "incidence": (partial(_field, place.incidence_at), np.float32),
    }
    return {name: _variable([read], window, dtype, attributes[name], False) for name, (read, dtype) in reads.items()}


def _values(
    image: SafeImage, calibration: str | None, denoise: bool, out: NDArray[Any], lines: range, pixels: range
) -> None:
    """Calibrated pixels, NaN where there is no data."""
    for rows, values, valid in _blocks(image, calibration, denoise, lines, pixels):
        out[rows] = values
        out[rows][~valid] = np.nan


def _valid(image: SafeImage, out: NDArray[Any], lines: range, pixels: range) -> None:
    for rows, _, valid in _blocks(image, None, False, lines, pixels):
        out[rows] = valid


def _blocks(
    image: SafeImage, calibration: str | None, denoise: bool, lines: range, pixels: range
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Values and validity of the wanted lines and pixels of each block, after their rows in the result."""
    window = (slice(lines[0], lines[-1] + 1), slice(pixels[0], pixels[-1] + 1))
    for first, (values, valid) in image.blocks(calibration, denoise, *window):
        begin, end = (-(-(line - lines[0]) // lines.step) for line in (first, first + len(values)))
        if begin < end:
            part = np.s_[lines[begin] - first :: lines.step, :: pixels.step]
            yield slice(begin, end), values[part], valid[part]


def _field(at: Callable[[Any, Any], NDArray[np.float64]], out: NDArray[Any], lines: range, pixels: range) -> None:
    """A smooth field, some lines at a time."""
    step = max(1, _FIELD_PIXELS // len(pixels))
    for start in range(0, len(lines), step):
        out[start : start + step] = at(np.array(lines[start : start + step]), np.array(pixels))
