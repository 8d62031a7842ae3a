"""One image from a NetCDF file (classic or HDF5): every two-dimensional variable of the common size is a channel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.products.folder.bands import INCIDENCE, incidence_facts

_POSITION = {"lon": "lon", "longitude": "lon", "lat": "lat", "latitude": "lat"}
MAX_BANDS = 32


@dataclass(frozen=True, slots=True)
class Variables:
    """What a file holds: channel names, the variable and leading index of each, and the common (height, width)."""

    names: tuple[str, ...]
    where: tuple[tuple[str, int | None], ...]
    size: tuple[int, int]
    dtype: str


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import xarray as xr

    with path.open("rb") as handle:
        engine = "scipy" if handle.read(3) == b"CDF" else "h5netcdf"
    if engine == "h5netcdf":  # which fails untidily on a damaged file or root: those are refused before
        import h5py

        with h5py.File(path, "r") as file:
            file.attrs.get("_nc3_strict")
    with xr.open_dataset(path, engine=engine, decode_times=False, cache=False) as data:
        yield data


def list_variables(path: Path) -> Variables:
    """The channels of a file, without their pixels.

    A variable of three dimensions is one channel for each step of its first one, named by its coordinate.
    Incidence, longitude and latitude are no channels.

    Raises
    ------
    ValueError
        When no variable looks like an image.
    """
    with _opened(path) as data:
        return _list(data)


def _list(data: Any) -> Variables:
    found: list[tuple[str, tuple[str, int | None], tuple[int, int], str]] = []
    for key, variable in data.data_vars.items():
        name, shape = str(key), tuple(int(n) for n in variable.shape)
        if variable.dtype.kind not in "fiub" or name.lower() in (*INCIDENCE, *_POSITION):
            continue
        if len(shape) == 2 and min(shape) > 1:
            found.append((name, (name, None), (shape[0], shape[1]), variable.dtype.name))
        elif len(shape) == 3 and min(shape[1:]) > 1 and 1 <= shape[0] <= MAX_BANDS:
            for step, label in enumerate(_labels(variable, shape[0])):
                full = name if shape[0] == 1 else f"{name}_{label}"
                found.append((full, (name, step), (shape[1], shape[2]), variable.dtype.name))
    if not found:
        raise ValueError("no variable of the file is a two-dimensional image")
    size = max((size for _, _, size, _ in found), key=lambda s: s[0] * s[1])
    kept = [entry for entry in found if entry[2] == size]
    names = tuple(name for name, *_ in kept)
    return Variables(names, tuple(where for _, where, *_ in kept), size, kept[0][3])


def _labels(variable: Any, count: int) -> list[str]:
    coordinate = variable.coords.get(variable.dims[0])
    if coordinate is None:
        return [str(i + 1) for i in range(count)]
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in coordinate.values.tolist()]


def read_netcdf(path: Path) -> tuple[NDArray[np.float32], Variables, dict[str, object]]:
    """Pixels float32 [C, H, W] (fill values as NaN), the variables, and the metadata that the file holds.

    Metadata: ``incidence_near_deg``, ``incidence_far_deg`` and ``incidence_deg`` from an incidence variable (means of
    its first column, its last, and all), ``lon`` and ``lat`` of the centre.
    """
    with _opened(path) as data:
        variables = _list(data)
        bands = []
        for name, step in variables.where:
            values = data[name].values
            bands.append(np.asarray(values if step is None else values[step], dtype=np.float32))
        return np.stack(bands), variables, _metadata(data, variables.size)


def _metadata(data: Any, size: tuple[int, int]) -> dict[str, object]:
    facts: dict[str, object] = {}
    for key, variable in data.variables.items():
        name = str(key).lower()
        if name not in (*INCIDENCE, *_POSITION) or variable.dtype.kind not in "fiu":
            continue
        values = np.asarray(variable.values, dtype=np.float64)
        on_grid = values.shape == size
        if not np.isfinite(values).any() or not (on_grid or values.ndim == 0 or values.shape == size[1:]):
            continue
        if name in _POSITION:
            if on_grid or values.ndim == 0:
                middle = values[size[0] // 2, size[1] // 2] if on_grid else values
                facts[_POSITION[name]] = float(middle)
            continue
        facts |= incidence_facts(np.atleast_1d(values))
    return {name: value for name, value in facts.items() if np.isfinite(float(str(value)))}
