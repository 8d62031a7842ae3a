"""Reading reference tables for collocation: Parquet, CSV and NetCDF, with columns found by name, CF name or unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.errors import DataError, GroundswellError, UsageError, did_you_mean
from groundswell.products.references.points import Grid, Points, Reference

_NAMES = {
    "time": ("time", "datetime", "date_time", "timestamp", "date", "valid_time", "time_utc"),
    "lon": ("lon", "longitude", "long", "lng", "nav_lon", "xlong"),
    "lat": ("lat", "latitude", "nav_lat", "xlat"),
}
_STANDARD = {"time": "time", "lon": "longitude", "lat": "latitude"}


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns or variables of a table are; None where they are to be found by their names.

    ``source`` names what tells buoys or satellites apart; ``variables`` are those to keep (every number by default).
    """

    time: str | None = None
    lon: str | None = None
    lat: str | None = None
    source: str | None = None
    variables: tuple[str, ...] = ()


def open_reference(path: str | Path, columns: Columns | None = None) -> Reference:
    """Open a Parquet, CSV or NetCDF table of places, times and values.

    Time, longitude and latitude are found by the names that people give them and, in NetCDF, by CF standard names
    and units. Times without a zone are UTC.

    Raises
    ------
    DataError
        When the file is missing, damaged, or of another format; or no time, place or value can be found in it.
    UsageError
        When a named column is not there.
    """
    path, columns = Path(path), columns or Columns()
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        if magic[:3] == b"CDF" or magic[:4] == b"\x89HDF":
            return _netcdf(path, columns, "scipy" if magic[:3] == b"CDF" else "h5netcdf")
        return _table(path, pd.read_parquet(path) if magic[:4] == b"PAR1" else _csv(path), columns)
    except GroundswellError:
        raise
    except Exception as error:  # whatever a reader makes of damaged bytes
        why = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError("a reference table could not be read", where=path, why=why) from error


def _csv(path: Path) -> pd.DataFrame:
    from pyarrow import csv  # which refuses rows of unequal length, where pandas would shift their columns

    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    separator = csv.ParseOptions(delimiter=max(",;\t", key=first.count))
    found: pd.DataFrame = csv.read_csv(
        path, parse_options=separator, convert_options=csv.ConvertOptions(strings_can_be_null=True)
    ).to_pandas()
    return found


def _table(path: Path, frame: pd.DataFrame, columns: Columns) -> Points:
    frame = frame.rename(columns=lambda name: str(name).strip())
    names = {role: _found(path, role, getattr(columns, role), {c: {} for c in frame.columns}) for role in _NAMES}
    time = _times(path, names["time"], frame[names["time"]])
    lon, lat = (
        pd.to_numeric(frame[names[r]], errors="coerce").to_numpy(np.float64, na_value=np.nan) for r in ("lon", "lat")
    )
    source = None if columns.source is None else frame[_named(path, columns.source, frame.columns)]
    taken = {*names.values(), columns.source}
    numbers = [c for c in frame.columns if c not in taken and pd.api.types.is_numeric_dtype(frame[c])]
    chosen = [_named(path, v, frame.columns) for v in columns.variables] or numbers
    _require(path, chosen)
    values = {c: pd.to_numeric(frame[c], errors="coerce").to_numpy(np.float64, na_value=np.nan) for c in chosen}
    known = _on_globe(path, lon, lat) & time.notna().to_numpy()
    nanoseconds = time.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    return Points(
        path.stem,
        nanoseconds[known],
        lon[known],
        lat[known],
        {c: v[known] for c, v in values.items()},
        None if source is None else source[known].tolist(),
    )


def _times(path: Path, name: str, column: Any) -> Any:
    """A column as UTC times, NaT where empty."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        if pd.api.types.is_numeric_dtype(column):
            raise DataError(
                f"the times in {name!r} are plain numbers",
                where=path,
                fix="write them as ISO 8601, 2021-02-01T08:33:07Z",
            )
        try:
            return pd.to_datetime(column, utc=True, format="ISO8601")
        except ValueError as error:
            raise DataError(f"the column {name!r} holds no times", where=path, why=str(error)) from error
    return pd.to_datetime(column, utc=True)


def _netcdf(path: Path, columns: Columns, engine: str) -> Reference:
    import xarray as xr

    data = xr.open_dataset(path, engine=engine, cache=False)  # stays open: a grid is read as it is needed
    facts = {str(name): variable.attrs for name, variable in data.variables.items()}
    names = {role: _found(path, role, getattr(columns, role), facts) for role in _NAMES}
    time, lon, lat = (data[names[role]] for role in ("time", "lon", "lat"))
    if time.dtype.kind != "M":
        raise DataError(f"{names['time']!r} holds no times of the common calendar", where=path)
    dims = list(dict.fromkeys((*time.dims, *lat.dims, *lon.dims)))
    chosen = [_named(path, name, facts) for name in columns.variables]
    numbers = [str(k) for k, v in data.data_vars.items() if v.dtype.kind in "fiu" and str(k) not in names.values()]
    arrays = {}
    for name in chosen or numbers:
        array = data[name]
        array = array.squeeze([d for d in array.dims if d not in dims and array.sizes[d] == 1], drop=True)
        if set(array.dims) == set(dims):
            arrays[name] = array.transpose(*dims)
        elif chosen:
            why = f"its dimensions are {array.dims}, those of time and place {tuple(dims)}"
            raise UsageError(f"{name!r} does not vary in time and place alone", where=path, why=why)
    _require(path, list(arrays))
    places = [d for d in dims if d not in time.dims]
    if len(places) == len({*lat.dims, *lon.dims}):
        if columns.source is not None:
            raise UsageError("a grid of times by places is one source", where=path, fix="leave out --source-column")
        return _grid(path, time, lon, lat, arrays)
    if places:
        why = f"time {time.dims}, longitude {lon.dims}, latitude {lat.dims}"
        raise DataError("times and places share some dimensions and not others", where=path, why=why)
    x, y = (np.asarray(v.broadcast_like(time).transpose(*dims).values, dtype=np.float64).ravel() for v in (lon, lat))
    stamps = np.asarray(time.transpose(*dims).values).astype("datetime64[ns]").ravel()
    known = _on_globe(path, x, y) & ~np.isnat(stamps)
    source = None
    if columns.source is not None:
        column = data[_named(path, columns.source, facts)].broadcast_like(time).transpose(*dims)
        source = column.values.ravel()[known].tolist()
    values = {name: np.asarray(v.values, dtype=np.float64).ravel()[known] for name, v in arrays.items()}
    data.close()
    return Points(path.stem, stamps.astype(np.int64)[known], x[known], y[known], values, source)


def _grid(path: Path, time: Any, lon: Any, lat: Any, arrays: dict[str, Any]) -> Grid:
    """Times by places; a file of one time has no dimension for it."""
    stamps = np.asarray(time.values).astype("datetime64[ns]").reshape(-1)
    if np.isnat(stamps).any() or time.ndim > 1:
        raise DataError("times are missing, or have more than one dimension", where=path, why=f"in {time.name!r}")
    if not time.dims:
        arrays = {name: array.expand_dims("time") for name, array in arrays.items()}
    like = next(iter(arrays.values()))[0]
    x, y = (
        np.asarray(v.broadcast_like(like).transpose(*like.dims).values, dtype=np.float64).ravel() for v in (lon, lat)
    )
    _on_globe(path, x, y)
    return Grid(path.stem, stamps.astype(np.int64), x, y, arrays)


def _found(path: Path, role: str, given: str | None, attributes: Mapping[str, Mapping[Any, Any]]) -> str:
    """The variable that is time, lon or lat: as given, by CF standard name or units, or by its name."""
    if given is not None:
        return _named(path, given, attributes)
    units = {"lon": "degrees_east", "lat": "degrees_north"}.get(role)
    for name, facts in attributes.items():
        if facts.get("standard_name") == _STANDARD[role]:
            return name
    by_name = {name.lower(): name for name in reversed(list(attributes))}
    for name in _NAMES[role]:
        if name in by_name:
            return by_name[name]
    for name, facts in attributes.items():
        if units is not None and facts.get("units") == units:
            return name
    raise DataError(
        f"no column of a reference table looks like {_STANDARD[role]}",
        where=path,
        why="columns: " + ", ".join(list(attributes)[:20]),
        fix=f"name it with --{role}-column",
    )


def _named(path: Path, name: str, known: Iterable[Any]) -> str:
    known = [str(k) for k in known]
    if name not in known:
        raise UsageError(f"the reference table has no column {name!r}", where=path, fix=did_you_mean(name, known))
    return name


def _require(path: Path, chosen: list[str]) -> None:
    if not chosen:
        raise DataError("a reference table holds no numbers beside time and place", where=path)


def _on_globe(path: Path, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places are known; `DataError` for one that is not on the globe."""
    known = np.isfinite(lon) & np.isfinite(lat)
    wrong = known & ((np.abs(lat) > 90.0) | (np.abs(lon) > 360.0))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(
            "a reference table has places that are not on the globe",
            where=path,
            why=f"longitude {lon[at]:g}, latitude {lat[at]:g} ({int(wrong.sum())} of {len(lon)})",
            fix="longitude and latitude are in degrees; name their columns if others were taken",
        )
    return np.asarray(known)
