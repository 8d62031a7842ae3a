"""GeoTIFF: the grid, the names and the date of a tile, as Google Earth Engine and others write it.

GDAL is held to the file itself: no other format, no file beside it, no network.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError
from groundswell.products.folder.grid import Grid, grid_of
from groundswell.products.names import metadata_from_path

_LOCKED = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PAM_ENABLED": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "none",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}
_PRODUCT = re.compile(
    r"S1[A-Z]_(?:IW|EW|S[1-6])_GRD[FHM]_[0-9A-Z]{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}"
)
_DATE = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?:[T_ ]?([0-2]\d):?([0-5]\d):?([0-5]\d))?(?!\d)")
_MILLISECONDS = re.compile(r"(?:^|[:_=])time_start=(\d{12,14})(?:\.0*)?$")  # GDAL splits names at a colon
_ISO = ("acquisition_time", "acquisition_date", "acquisition_datetime", "date_acquired", "datetime", "date", "time")


@dataclass(frozen=True, slots=True)
class Header:
    """What a GeoTIFF says of itself: grid (None where it is on no map), band names, metadata by small letters."""

    grid: Grid | None
    names: tuple[str | None, ...]
    items: dict[str, str]


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A rasterio dataset of a TIFF file; whatever is wrong with it is a `DataError`."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with rasterio.Env(**_LOCKED):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)  # that is no fault of a plain TIFF
                dataset = rasterio.open(Path(path).absolute(), driver="GTiff", sharing=False)
            with dataset:
                yield dataset
    except (RasterioError, OSError, ValueError, MemoryError) as error:
        why = str(error.__cause__ or error).replace(f"{path}", "it")
        raise DataError("a GeoTIFF could not be read", where=path, why=why) from error


def read_header(path: str | Path) -> Header:
    """Grid, band names and metadata of a TIFF; `DataError` when it is none."""
    with opened(path) as dataset:
        items = {str(key).lower(): str(value) for key, value in dataset.tags().items()}
        return Header(grid_of(dataset), tuple(dataset.descriptions), items)


def metadata(path: str | Path) -> dict[str, object]:
    """The fields of `Metadata` that a tile tells: place by its grid; product and time where its name is a product's."""
    grid = read_header(path).grid
    return {**product_facts(Path(path).stem), **(grid.place() if grid is not None else {})}


def product_facts(stem: str) -> dict[str, object]:
    """What a file name tells that starts as a Sentinel-1 product's (the ``system:index`` of Earth Engine) does."""
    match = _PRODUCT.match(stem)
    return {} if match is None else metadata_from_path(f"{match[0]}/x")


def acquired(path: str | Path, items: dict[str, str]) -> datetime | None:
    """When an acquisition was made, UTC: by its metadata (``system:time_start`` ...), else by the one date in its name.

    The TIFF's own DateTime is not asked: it says when the file was written. A name with several days says none.
    """
    for key, value in items.items():
        if (match := _MILLISECONDS.search(f"{key}={value}")) is not None:
            return datetime.fromtimestamp(float(match[1]) / 1000.0, UTC)
    for text in (items[key] for key in _ISO if key in items):
        if (found := _only_day(text)) is not None:
            return found
    time = product_facts(Path(path).stem).get("time")
    return time if isinstance(time, datetime) else _only_day(Path(path).stem)


def _only_day(text: str) -> datetime | None:
    """The first time in a text all of whose dates are of one day."""
    found = []
    for match in _DATE.finditer(text):
        try:
            year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
            found.append(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
        except ValueError:  # digits that are no date
            continue
    return found[0] if len({time.date() for time in found}) == 1 else None


def read_all(path: str | Path) -> NDArray[Any]:
    """Every band ``[C, H, W]`` in the file's own type."""
    with opened(path) as dataset:
        return np.asarray(dataset.read())
